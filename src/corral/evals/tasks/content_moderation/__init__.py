"""Content moderation of text, images and video: items x moderators x conditions (arXiv 2411.17123, design our own).

No evaluation code and no result table of the paper is public, so none of its figures stands beside ours: the questions
are the paper's, the harness is ours.
"""
