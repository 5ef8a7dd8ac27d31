"""Fields of requests that several routes have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from jupyter_gpuaas.controller.routes_sessions import Text
from jupyter_gpuaas.model import check_user

UserName = Annotated[Text, AfterValidator(check_user)]
#: Of whatever may be a fraction; a time in seconds since the epoch, too.
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
