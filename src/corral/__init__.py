"""Corral: guard an assistant built on an open-weight model, change the model safely, and see what each costs."""
