"""Guards behind an endpoint of the shape of OpenAI's ``/v1/moderations``: of text, and of pictures."""
