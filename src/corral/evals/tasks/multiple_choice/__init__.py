"""Zero-shot multiple choice by log-likelihood: packaged local sets, and public file formats from a user's path."""
