"""The compiled modules: ``cpu`` and ``windows`` once, the others once per instruction set.

Loaded by ``fastconv.machine`` only. Sources: src_cython/.
"""
