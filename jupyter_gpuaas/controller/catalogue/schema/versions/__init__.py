"""One file a step, ``vNNNN_what.py``. A step that was released is never changed; the next one mends it."""
