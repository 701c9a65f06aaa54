"""The ranges of numbers in recipes and on the command line. Each range stands here and nowhere else.

A range leaves room for any sensible use (ImageNet-22k has 21,841 classes). A number beyond it would end a run late:
without memory, without an end, or in a number that is not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, ValidatorFunctionWrapHandler
    from pydantic_core import CoreSchema


BEYOND = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "int_parsing_size")


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`. As an annotation of a field, pydantic checks it.

    Attributes:
        low_is_in: whether `low` itself is in the range.
        high_is_in: whether `high` itself is in the range.
    """

    low: float
    high: float
    low_is_in: bool = True
    high_is_in: bool = True

    def __contains__(self, number: float) -> bool:
        """Whether `number` is in the range. NaN never is."""
        above = self.low <= number if self.low_is_in else self.low < number
        return above and (number <= self.high if self.high_is_in else number < self.high)

    def __str__(self) -> str:
        low, high = (f"{bound:,}" if abs(bound) >= 1 else f"{bound:g}" for bound in (self.low, self.high))
        above, below = "at least" if self.low_is_in else "above", "at most" if self.high_is_in else "below"
        return f"{above} {low} and {below} {high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        lowest, highest = "ge" if self.low_is_in else "gt", "le" if self.high_is_in else "lt"
        number = {"type": "int" if source is int else "float", lowest: self.low, highest: self.high}
        return core_schema.no_info_wrap_validator_function(self._checked, cast("CoreSchema", number))

    def _checked(self, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """The value, checked. The error names both bounds; pydantic's own errors name one of them."""
        from pydantic import ValidationError
        from pydantic_core import PydanticCustomError

        if isinstance(value, bool):
            raise PydanticCustomError("number_type", "Input should be a number, not true or false")
        try:
            return handler(value)
        except ValidationError as error:
            if error.errors()[0]["type"] not in BEYOND:
                raise
        raise PydanticCustomError("out_of_range", "Input should be {range}", {"range": str(self)})


FRACTION = Range(0, 1)
SHARE = Range(0, 1, low_is_in=False)
LOSS = Range(0, 1, high_is_in=False)
BETA = Range(0, 1, high_is_in=False)  # of the effective number of samples
MOMENTUM = Range(0, 1, high_is_in=False)  # of a moving average; 1 would stand still
COSINE_TEMPERATURE = Range(0.01, 10)  # of cosines, which are between -1 and 1
POSITIVE = Range(0, 1_000_000, low_is_in=False)  # weights of terms, temperatures, ms, MiB, millions of parameters
NON_NEGATIVE = Range(0, 1_000_000)
RATE = Range(0, 1000)
RATIO = Range(0.01, 100)
DEGREES = Range(0, 360)
HUE = Range(0, 0.5)  # half of the color circle
MASKED = Range(0, 1, high_is_in=False)  # of the patches of an image
DECODER_WIDTH = Range(32, 8192)
PUZZLE_GRID = Range(2, 3)  # rows and columns of tiles
DECIBELS = Range(-1000, 1000)
MEASURED_S = Range(0.001, 86_400)
COMPARED_S = 6.0  # the default of `compare`, on the command line and in Python
WARMUP_S = Range(0, 86_400)

COUNT = Range(1, 1_000_000)
CALIBRATION_MODELS = Range(8, 40)  # of the catalogue, that are measured to predict others
IMAGES = Range(1, 1_000_000_000)
GLYPHS = Range(1, 100_000)  # of each character
BATCH = Range(1, 65_536)
EPOCHS = Range(0, 100_000)
CLASSES = Range(2, 1_000_000)
CANDIDATES = Range(2, 20)  # that are trained to select one
MOST_RACED = 100  # models: Wilcoxon's interval over the 12 starts of a race has no higher confidence than 99.95%
SIDE = Range(1, 8192)  # of an image, in pixels
LAYER = Range(-10_000, 10_000)  # negative from the end
THREADS = Range(1, 256)
WORKERS = Range(0, 256)
RANKS = Range(1, 256)
REPEATS = Range(1, 1000)  # of a sample in a batch
VIEWS = Range(0, 1000)  # of an image
SEVERITY = Range(1, 5)
BUILDER_LEVEL = Range(0, 5)
BUILDS = Range(1, 20)  # of one engine
STARTS = Range(1, 100)  # of a model that is measured
RATE_HZ = Range(0.01, 1e5)  # frames a second
OPSET = Range(17, 23)
SEED = Range(0, 2**31 - 1)  # scikit-learn takes 32 bits, and cross-validation counts up from a seed
STEPS = Range(20, 1_000_000)
POLICY_NUMBER = Range(0, 1000)  # in the name of an augmentation policy
MODEL_ARGUMENT = Range(-1_000_000, 1_000_000)

CHANNEL_MEAN = Range(-1000, 1000)
CHANNEL_STD = Range(1e-6, 1000)
CROP_SHARE = Range(0.05, 10)
