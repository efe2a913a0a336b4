"""Defences that stand around a model without training it: prompts that remind, demonstrate, reword or re-cut."""
