"""Parts of `bench/vs_trl.py` and `bench/gate.py`."""
