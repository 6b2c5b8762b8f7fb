// Make an image small enough for the server's limits, in the browser.

const QUALITY = 0.92; // of the JPEG
const SPARE = 4; // shorter side in multiples of the model's input: no detail that it uses is lost
const STEP = 0.7; // factor of each side while the JPEG has too many bytes
const THUMBNAIL = 480; // pixels of the longer side

/**
 * Return what to send and to show.
 *
 * limits: {bytes, pixels} of one image, {input}: the longer side of the model's input in pixels.
 * Returns {body, thumbnail, shrunk}: the file itself or a JPEG of it; a small Blob, or null if the
 * browser cannot read the image; null, or a text such as "6000 × 4000 to 1344 × 896 pixels".
 * Throws an Error with a sentence for the user if the image is too large and stays so.
 */
export async function fit(file, limits) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (file.size <= limits.bytes) return { body: file, thumbnail: null, shrunk: null };
    throw new Error(
      `The file has ${megabytes(file.size)}, and this server accepts up to ${megabytes(limits.bytes)}. ` +
      "This browser cannot read it to make it smaller: save it as a smaller JPEG.",
    );
  }
  try {
    const longer = Math.max(bitmap.width, bitmap.height);
    const thumbnail = await encode(bitmap, Math.min(1, THUMBNAIL / longer));
    const pixels = bitmap.width * bitmap.height;
    if (file.size <= limits.bytes && pixels <= limits.pixels) return { body: file, thumbnail, shrunk: null };
    const shorter = Math.min(bitmap.width, bitmap.height);
    let scale = Math.min(1, SPARE * limits.input / shorter, Math.sqrt(limits.pixels / pixels));
    for (; scale * longer >= 1; scale *= STEP) {
      const body = await encode(bitmap, scale);
      if (body && body.size <= limits.bytes) {
        const sizes = `${bitmap.width} × ${bitmap.height} to ${sideOf(bitmap.width, scale)} × ${sideOf(bitmap.height, scale)}`;
        return { body, thumbnail, shrunk: `${sizes} pixels` };
      }
    }
    throw new Error(`This server accepts up to ${limits.bytes} bytes, too few for any image.`);
  } finally {
    bitmap.close();
  }
}

async function encode(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = sideOf(bitmap.width, scale);
  canvas.height = sideOf(bitmap.height, scale);
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind transparent pixels, as on the server
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

function sideOf(side, scale) {
  return Math.max(1, Math.floor(side * scale));
}

export function megabytes(bytes) {
  if (bytes < 1024) return `${bytes} bytes`;
  return bytes < 1024 ** 2 ? `${Math.round(bytes / 1024)} KB` : `${(bytes / 1024 ** 2).toFixed(1)} MB`;
}
