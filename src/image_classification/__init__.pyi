from image_classification import errors as errors
from image_classification.api import compare as compare
from image_classification.api import load as load
from image_classification.api import train as train
from image_classification.api import tune as tune
from image_classification.api.comparison import Comparison as Comparison
from image_classification.api.model import Model as Model
from image_classification.api.model import Server as Server
from image_classification.api.results import ClassScore as ClassScore
from image_classification.api.results import Evaluation as Evaluation
from image_classification.api.results import Mistake as Mistake
from image_classification.api.results import Prediction as Prediction
from image_classification.errors import ImageClassificationError as ImageClassificationError
from image_classification.errors import UserError as UserError

__version__: str
