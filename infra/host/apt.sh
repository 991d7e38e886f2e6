# shellcheck shell=bash
# Sourced by the scripts beside it: what this host's apt is set up with.

# host_archive debian|debian-security: the mirror this host uses for that archive, so that
# no mirror is named here.
host_archive() {
    # shellcheck disable=SC2016  # apt's own placeholders, not the shell's
    apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' \
        | awk -v archive="$1" '$2 == "main" {
              uri = $1; sub(/\/$/, "", uri)
              if (uri ~ "/" archive "$") { print uri; exit }
          }'
}
