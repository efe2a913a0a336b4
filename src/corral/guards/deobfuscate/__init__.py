"""Reading what was written so that filters do not: decoders of ciphers, removers of noise, and a guard that uses them.

``codes`` undoes exact encodings, ``noise`` undoes disguises of letters, ``readings`` finds both inside a text, and
``guard`` judges a message by its worst reading. The text as it was written always stays one of the readings.
"""

from corral.guards.deobfuscate.guard import DeobfuscatingGuard
from corral.guards.deobfuscate.readings import Reading, readings

__all__ = ["DeobfuscatingGuard", "Reading", "readings"]
