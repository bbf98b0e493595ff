# Four images of one file; docs/deploy-docker.md says how to build and run them.
#
#   gateway   the API                       port 8000
#   webui     the page                      port 7860
#   cpu       inference on the CPU          port 8080; it prepares models for a card, too
#   app       everything on one host        port 7860
#
# Packages come from requirements.lock with its hashes. A folder of wheels replaces the network:
#   docker build -f Dockerfile.app --target gateway --build-context wheelhouse=FOLDER --build-arg SYSTEM_PACKAGES= .
ARG BASE=python:3.11-slim-bookworm

# --- what is installed, and how; nothing of this stays

FROM scratch AS wheelhouse
WORKDIR /

FROM ${BASE} AS tools
ARG PYTHON=python3
WORKDIR /src
COPY requirements.lock pyproject.toml ./
# Every wheel is compared with its hash here; what is installed below is taken from these files alone.
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    --mount=type=cache,target=/root/.cache/pip \
    if ls /wheelhouse/*.whl >/dev/null 2>&1; then offline="--no-index --find-links /wheelhouse"; fi && \
    ${PYTHON} -m pip download --quiet --require-hashes --no-deps --only-binary :all: $offline -r requirements.lock -d /wheels && \
    ${PYTHON} -m venv /opt/pip && \
    /opt/pip/bin/python -m pip install --quiet --no-index --find-links /wheels --upgrade pip
# usage: install GROUP; a group of pyproject.toml into /opt/venv, without pip unless the group names it
RUN printf '%s\n' '#!/bin/sh -e' \
    "${PYTHON} -m venv --without-pip /opt/venv" \
    'exec /opt/pip/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-index \' \
    '  --find-links /wheels --group "pyproject.toml:$1"' >/usr/local/bin/install-group && \
    chmod +x /usr/local/bin/install-group

FROM tools AS gateway-packages
RUN --network=none install-group gateway
COPY gateway /app/gateway
RUN --network=none ${PYTHON:-python3} -m compileall -q /app

FROM tools AS webui-packages
RUN --network=none install-group webui
COPY webui /app/webui
RUN --network=none ${PYTHON:-python3} -m compileall -q /app

FROM tools AS cpu-packages
RUN --network=none install-group inference
COPY inference /app/inference
RUN --network=none ${PYTHON:-python3} -m compileall -q /app

FROM tools AS app-packages
RUN --network=none install-group app
COPY gateway /app/gateway
COPY inference /app/inference
COPY webui /app/webui
COPY app.py /app/
RUN --network=none ${PYTHON:-python3} -m compileall -q /app

# --- what the images share: one user without rights, folders for volumes, nothing else to write

FROM ${BASE} AS common
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="internlm-stack" \
      org.opencontainers.image.description="InternLM2 chat models online: inference, gateway, web UI" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN (getent passwd 1000 >/dev/null || useradd --uid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin app) && \
    install -d -m 0700 -o 1000 -g 1000 /data /models /launch /webui
COPY LICENSE /app/LICENSE
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HOST=0.0.0.0 \
    DATA_DIR=/data \
    MODELS_DIR=/models
WORKDIR /app
ENTRYPOINT []

FROM common AS with-git
ARG SYSTEM_PACKAGES="git git-lfs"
# For models from git repositories (OpenXLab).
RUN if [ -n "${SYSTEM_PACKAGES}" ]; then \
      apt-get update -qq && \
      DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ${SYSTEM_PACKAGES} >/dev/null && \
      rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*; \
    fi

# --- the images

FROM common AS gateway
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --from=gateway-packages /app /app
ENV PORT=8000
EXPOSE 8000
USER 1000:1000
VOLUME /data
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "gateway", "serve"]

FROM common AS webui
COPY --from=webui-packages /opt/venv /opt/venv
COPY --from=webui-packages /app /app
ENV PORT=7860 \
    WEBUI_API_KEY_FILE=/webui/webui.key \
    WEBUI_SECRET_FILE=/webui/webui.secret \
    WEBUI_USERS_FILE=/webui/webui.users
EXPOSE 7860
USER 1000:1000
VOLUME /webui
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/robots.txt'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "webui"]

FROM with-git AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --from=cpu-packages /app /app
ENV INFERENCE_ENGINE=llamacpp \
    INFERENCE_LISTEN=0.0.0.0:8080
EXPOSE 8080
USER 1000:1000
VOLUME /data /models
# 503 until the model is loaded; the first start fetches it, too.
HEALTHCHECK --interval=5s --timeout=5s --start-period=1800s CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "inference", "serve"]

FROM with-git AS app
COPY --from=app-packages /opt/venv /opt/venv
COPY --from=app-packages /app /app
ENV PORT=7860
EXPOSE 7860
USER 1000:1000
VOLUME /data /models
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "app.py"]
