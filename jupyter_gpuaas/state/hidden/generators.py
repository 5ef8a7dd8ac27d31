"""Random states: Python's own, numpy's global one, torch's and cupy's. Restored last, as imports draw from them."""

from __future__ import annotations

import random
import struct
from typing import Any

from ..device import rng
from ..rules.registry import NotRestorable
from .world import Hidden, Kind, Named, keep, kept, loaded, needed


class PythonRandom(Kind):
    kind = "random"

    def look(self, world: Hidden) -> Any:
        version, words, gauss = random.getstate()
        # As bytes: 625 ints are slower to pickle than all else here together.
        return version, struct.pack(f"<{len(words)}I", *words), gauss

    def put_back(self, value: Any, world: Hidden) -> None:
        version, words, gauss = value
        random.setstate((version, struct.unpack(f"<{len(words) // 4}I", words), gauss))


class NumpyRandom(Kind):
    """The state behind ``np.random.rand``; Generators are ordinary objects."""

    kind = "numpy.random"

    def look(self, world: Hidden) -> Any:
        mtrand = loaded("numpy.random.mtrand")
        if mtrand is None:
            return None
        state = mtrand.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            generator = mtrand.get_bit_generator()
            named = keep(generator, world)
            return {"other": state, "generator": named if isinstance(named, Named) else None}
        inner = state["state"]
        return {
            "key": inner["key"].tobytes(),
            "pos": int(inner["pos"]),
            "has_gauss": int(state["has_gauss"]),
            "gauss": float(state["gauss"]),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        numpy = needed("numpy")
        if "other" in value:
            if value["generator"] is not None:
                generator = kept(value["generator"], world.namespace)
                if generator.state["bit_generator"] != value["other"]["bit_generator"]:
                    raise NotRestorable("drew from a generator of the notebook, which did not come back as it was")
                numpy.random.set_bit_generator(generator)
            elif numpy.random.get_bit_generator().state["bit_generator"] != value["other"]["bit_generator"]:
                made = getattr(numpy.random, value["other"]["bit_generator"], None)
                if made is None:
                    raise NotRestorable(f"is a {value['other']['bit_generator']}, which numpy does not have here")
                numpy.random.set_bit_generator(made())
            numpy.random.set_state(value["other"])
            return
        if numpy.random.get_state(legacy=False)["bit_generator"] != "MT19937":
            numpy.random.set_bit_generator(numpy.random.MT19937())
        key = numpy.frombuffer(value["key"], dtype=numpy.uint32)
        numpy.random.set_state(("MT19937", key, value["pos"], value["has_gauss"], value["gauss"]))


class TorchRandom(Kind):
    """The CPU's, and each device's that is in use."""

    kind = "torch.random"

    def look(self, world: Hidden) -> Any:
        return rng.torch_states()

    def put_back(self, value: Any, world: Hidden) -> None:
        needed("torch")
        rng.set_torch_states(value)


class CupyRandom(Kind):
    kind = "cupy.random"

    def look(self, world: Hidden) -> Any:
        return rng.cupy_states()

    def put_back(self, value: Any, world: Hidden) -> None:
        needed("cupy")
        rng.set_cupy_states(value)
