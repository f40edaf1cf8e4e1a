# What compose.yaml needs of the image of SeaweedFS: the program, of the wheel that the tests use, and wget.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists
COPY weed /usr/bin/weed
