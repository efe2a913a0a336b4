"""DeRTa (arXiv 2407.09121): training a chat model to turn to refusal at any place of a harmful answer.

``settings`` says what may be set, ``rows`` turns triples of request, safe and harmful answer into ids and labels,
``collator`` drops positions anew in every epoch, ``trainer`` trains the arms on TRL.
"""
