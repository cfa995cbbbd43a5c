"""Makes Spyne 2.14 importable on every Python. Import this before the first import of Spyne.

Spyne carries a copy of `six` whose import hook uses an interface that Python 3.11 warns of at every later import and
3.12 removed. The published `six` is the same library, mended: it takes the copy's place in `sys.modules`, with the one
function that Spyne added to its own.
(On 3.13 Spyne also needs the `cgi` module, which the dependency `legacy-cgi` gives back.)
"""

import sys
from importlib import import_module
from operator import attrgetter
from types import ModuleType

for _name in ("moves", "moves.collections_abc", "moves.http_cookies", "moves.urllib",
              "moves.urllib.error", "moves.urllib.parse", "moves.urllib.request"):  # fmt: skip
    sys.modules[f"spyne.util.six.{_name}"] = import_module(f"six.{_name}")
_six = ModuleType("spyne.util.six")
_six.__dict__.update(vars(import_module("six")), get_function_name=attrgetter("__name__"))
sys.modules["spyne.util.six"] = _six
