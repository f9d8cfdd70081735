"""The types of options that several methods have; recipes' values are checked by them."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
