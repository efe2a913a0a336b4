"""The moderation server: OpenAI's moderation API, a guarded chat gateway, an audit log and a console.

Sees ``core``, ``data``, ``models`` and ``guards`` only, so it starts without any training library.
"""
