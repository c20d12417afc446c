"""SciPy's filters by their own names: a user of ``scipy.signal`` or ``scipy.ndimage`` changes one import line.

``fastconv.compat.signal`` and ``fastconv.compat.ndimage`` hold functions with SciPy's signatures, defaults, centring
and result dtypes. What fastconv can't take, and what is too small to gain, goes on to SciPy unchanged; so do wrong
arguments, and the errors are SciPy's.
"""
