"""The guarded chat gateway: every text of a request and of its reply is judged before it goes on."""
