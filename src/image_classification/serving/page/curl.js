// The command that sends one file as the page does, and copying text.

const CONTROL = /[\u0000-\u001f\u007f]/g;

/** Return the command for a POSIX shell that sends the file `name` of the current folder. */
export function command(url, headers, name) {
  const options = Object.entries(headers).map(([key, value]) => `--header ${quoted(`${key}: ${value}`)}`);
  const path = name === "-" ? "./-" : name; // "@-" would be the standard input
  return ["curl --fail-with-body", `--data-binary ${quoted(`@${path}`)}`, ...options, quoted(url)].join(" ");
}

/** Return a text as one word of a shell; with control characters, as bash and zsh write it. */
export function quoted(text) {
  if (text.search(CONTROL) < 0) return `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = text.replace(/[\\']/g, "\\$&")
    .replace(CONTROL, (found) => `\\x${found.charCodeAt(0).toString(16).padStart(2, "0")}`);
  return `$'${escaped}'`;
}

/** Copy the text of an element, and say on the button what happened. */
export async function copy(element, button) {
  const selection = getSelection();
  selection.selectAllChildren(element);
  let isCopied = false;
  try {
    await navigator.clipboard.writeText(element.textContent);
    isCopied = true;
  } catch {
    // Browsers give a page of another machine no clipboard without TLS; the old way works there.
    isCopied = document.execCommand("copy");
  }
  if (isCopied) selection.removeAllRanges();
  const before = button.dataset.text ??= button.textContent;
  button.textContent = isCopied ? "Copied" : "Selected: press Ctrl+C";
  setTimeout(() => { button.textContent = before; }, 2000);
}
