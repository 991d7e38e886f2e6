# shellcheck shell=bash
# Sourced by loadtest/run: applies points by `ops apply`, measures them, and applies what was before.

TUNE_RESTORE=

# apply_env NAME: applies RUN_DIR/NAME/stack.env, live; the code is that of `ops apply`.
apply_env() {
    SLUICE_ENV_DIR=$RUN_DIR/$1 compose run --rm --no-deps --no-TTY ops apply \
        </dev/null >"$RUN_DIR/apply.txt" 2>&1
}

# The env file itself is never touched, so `make apply` also does it should this be killed.
restore_env() {
    local status try
    [[ -n $TUNE_RESTORE ]] || return 0
    TUNE_RESTORE=
    say "applying the configuration of before"
    for try in 1 2 3 4 5; do
        status=0
        apply_env original || status=$?
        ((status == 3)) || break
        say "the operation lock is held (try $try)"
        sleep 5
    done
    ((status == 0)) || say "NOT restored (exit code $status, see $RUN_DIR/apply.txt): make apply"
    return "$status"
}

_unfinished_run() {
    local directory
    for directory in "$RESULTS"/*-tune; do
        if [[ -f $directory/tune.json && ! -f $directory/recommended.env ]]; then printf '%s\n' "$directory"; fi
    done | tail -n 1
}

_begin_tune() {
    local found
    [[ ${RESUME:-} == yes ]] || { begin tune; return; }
    found=$(_unfinished_run)
    [[ -n $found ]] || die "no run to resume; start one with: make tune"
    require_stack
    build_image
    RUN_DIR=$found
    RUN_ID=$(basename "$found")
    export RUN_DIR RUN_ID
    say "resuming $RUN_ID"
    trap _finish EXIT
    trap 'exit 130' INT TERM
}

# The points are settings of one env file: the running configuration must be that file's, or the
# restore would change more than was changed here.
_lay_out_env() {
    mkdir -p "$RUN_DIR/original" "$RUN_DIR/candidate"
    chmod 2775 "$RUN_DIR/candidate"
    local file from
    from=$(env_directory)
    [[ -f $RUN_DIR/original/stack.env ]] || cp -L "$from/stack.env" "$RUN_DIR/original/"
    cmp --quiet "$from/stack.env" "$RUN_DIR/original/stack.env" \
        || die "the env file has changed since this run began; start a new one with: make tune"
    # What has no setting there stays as it is at every point; an application whose file is not
    # there would be retired.
    for file in postgresql.extra.conf pgbouncer.extra.ini clients; do
        [[ ! -e $from/$file ]] || cp -RL "$from/$file" "$RUN_DIR/original/"
        [[ ! -e $RUN_DIR/original/$file ]] || cp -R "$RUN_DIR/original/$file" "$RUN_DIR/candidate/"
    done
    apply_env original || die "the env file cannot be applied as it is (make apply): $(tail -n 3 "$RUN_DIR/apply.txt")"
}

_tune_points() {
    local point began status
    point=$(in_client loadtest tune-next) || return
    while [[ $point != "done" ]]; do
        began=$EPOCHREALTIME
        status=0
        apply_env candidate || status=$?
        case $status in
            0) point=$(in_client loadtest tune-measure "$began") || return ;;
            2) point=$(in_client loadtest tune-skip "$(_first_fault)" "$began") || return ;;
            *) say "apply failed with exit code $status; see $RUN_DIR/apply.txt"; return 1 ;;
        esac
    done
}

_first_fault() { grep --max-count=1 '^[^ ].*: ' "$RUN_DIR/apply.txt" || printf 'plan refused it\n'; }

tune() {
    # shellcheck disable=SC2034  # for in_client
    OPTIONS=(MINUTES REPEATS USERS POINT_SECONDS MIX TASKS_EACH)
    _begin_tune
    TUNE_RESTORE=yes
    _lay_out_env
    start_samplers 1 postgres pgbouncer api worker
    in_client loadtest tune-begin
    _tune_points || { conclude 1; }
    stop_samplers || true
    restore_env || conclude 1
    local code=0
    in_client loadtest tune-finish || code=$?
    if [[ -f $RUN_DIR/recommended.env ]]; then
        cp "$RUN_DIR/recommended.env" "$RUN_DIR/candidate/stack.env"
        SLUICE_ENV_DIR=$RUN_DIR/candidate compose run --rm --no-deps --no-TTY ops plan \
            >"$RUN_DIR/plan.txt" 2>&1 || true
        cat "$RUN_DIR/plan.txt"
        say "to apply it: cp loadtest/results/$RUN_ID/recommended.env $(env_directory)/stack.env && make apply"
    fi
    conclude "$code"
}
