"""Egida (arXiv 2502.13603): preference pairs from a model's own unsafe answers to requests in many attack styles.

``topics`` names topics, ``expand`` puts every request in every style, ``split`` holds topics and styles out, ``mining``
collects ``pairs`` (``chosen`` says where the preferred side comes from, ``shortcut`` whether style gives the sides
away, ``costs`` what it cost), ``cells`` reports attack success by seen and unseen topic and style.
"""
