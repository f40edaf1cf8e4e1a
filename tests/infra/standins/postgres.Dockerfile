# What compose.yaml needs of the official image of PostgreSQL, from Debian's package (which is of version 15).
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql && rm -rf /var/lib/apt/lists
COPY --chmod=755 postgres.sh /entrypoint.sh
ENV LANG=C.UTF-8 \
    PATH=/usr/lib/postgresql/15/bin:$PATH \
    PGDATA=/var/lib/postgresql/data
RUN install --directory --owner postgres --group postgres --mode 700 /var/lib/postgresql/data
ENTRYPOINT ["/entrypoint.sh"]
