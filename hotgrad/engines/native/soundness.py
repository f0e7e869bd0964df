"""Whether a compiler's libraries may be loaded: tried in a process of their own, since a bad one changes or ends the one that loads it.

What counts is what the library does. The options that break it may stand in a file, in a wrapper, or be the compiler's own.
"""

from __future__ import annotations

FAULTS = (
    "denormal numbers become zero in the whole process",
    "denormal numbers become zero",
    "NaN is taken for a number",
    "infinity is taken for a finite number",
    "the sign of zero is lost",
    "sums are reordered",
    "quotients are not rounded correctly",
)
# Sets a bit for each fault that it finds. Loops, as they become vector code.
SOURCE = """
#include <float.h>
int faults(volatile const float *x)
{
  const float tiny = x[0], nan = x[1], infinite = x[2], zero = x[3], one = x[4], large = x[5], three = x[6];
  volatile float a[64], b[64];
  float s[64], t[64];
  int found = 0;
  for (int i = 0; i < 64; i++) a[i] = (float)(i + 1), b[i] = three;
  for (int i = 0; i < 64; i++) s[i] = a[i], t[i] = b[i];
  for (int i = 0; i < 64; i++) s[i] = s[i] / t[i];
  for (int i = 0; i < 64; i++) if (!(tiny * a[i] > 0)) found |= 2;
  if (nan == nan || !(nan != nan) || nan < one || nan >= one) found |= 4;
  if (!(infinite > FLT_MAX) || infinite - infinite == 0) found |= 8;
  if (one / (zero + 0.0f) < 0 || !(one / (0.0f - zero) > 0)) found |= 16;
  if ((one + large) - large != 0) found |= 32;
  for (int i = 0; i < 64; i++) if (s[i] != (float)((double)a[i] / (double)b[i]) || a[i] / 3.0f != s[i]) found |= 64;
  return found;
}
"""
# Run by a Python that loads nothing else; prints the bits.
CHILD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
tiny = float("5e-324")
found = library.faults((ctypes.c_float * 7)(1e-40, float("nan"), float("inf"), -0.0, 1.0, 1e20, 3.0))
print("faults", found | (tiny * 1.0 == 0))
"""


def told(status: int, output: str, errors: str) -> str:
    """What is wrong with the library, in words, from the child's status and texts; "" for nothing.

    >>> told(0, "faults 0", ""), told(0, "faults 6", "")
    ('', 'denormal numbers become zero, NaN is taken for a number')
    """
    words = output.split()
    if status == 0 and words[:1] == ["faults"]:
        return ", ".join(fault for i, fault in enumerate(FAULTS) if int(words[1]) >> i & 1)
    lines = errors.strip().splitlines()
    return f"loading it ends the process (status {status}{': ' + lines[-1][:200] if lines else ''})"
