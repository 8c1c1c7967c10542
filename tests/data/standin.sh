#!/bin/sh
# A stand-in for the CLI that writes any line of stream-json a test wants. The first word of a prompt picks its behaviour:
# the lines of the file .standin/WORD (.standin/default where there is none), with @UUID@ for the prompt's id, and
#
#   @wait          until an answer to a request comes; an interrupt ends the turn instead
#   @until FILE    until .standin/FILE exists
#   @cat FILE      the bytes of .standin/FILE
#   @shout FILE    the same to stderr
#   @silent        no result follows
#
# Every line that it is given is kept in .standin/received, its arguments and environment in .standin/started.
dir=.standin
mkdir -p "$dir"
{ printf '%s\n' "$@"; env; } >"$dir/starting"
mv "$dir/starting" "$dir/started"

say() { printf '%s\n' "$1"; }

# field NAME LINE: the text of a field that holds no quote.
field() { printf '%s\n' "$2" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }

# Reads a line and keeps it.
hear() { IFS= read -r line && printf '%s\n' "$line" >>"$dir/received"; }

success() { say '{"type":"control_response","response":{"subtype":"success","request_id":"'"$(field request_id "$1")"'"}}'; }

result() {
    say '{"type":"result","subtype":"'"$2"'","is_error":'"$3"',"terminal_reason":"'"$4"'","result":"","num_turns":1,"duration_ms":1,"total_cost_usd":0,"user_message_uuid":"'"$1"'","queued_turn_count":0}'
}

# Waits for an answer; fails on an interrupt.
answered() {
    while hear; do
        case $line in
        *'"type":"control_response"'*) return 0 ;;
        *'"subtype":"interrupt"'*)
            success "$line"
            return 1
            ;;
        *'"subtype":'*) success "$line" ;;
        esac
    done
    exit 0
}

turn() {
    file=$dir/$1
    [ -e "$file" ] || file=$dir/default
    quiet=
    say '{"type":"command_lifecycle","command_uuid":"'"$2"'","state":"started"}'
    while IFS= read -r next <&3 || [ -n "$next" ]; do
        case $next in
        @wait) answered || { result "$2" error_during_execution true aborted_tools && return; } ;;
        '@until '*) while [ ! -e "$dir/${next#@until }" ]; do sleep 0.02; done ;;
        '@cat '*) cat "$dir/${next#@cat }" ;;
        '@shout '*) cat "$dir/${next#@shout }" >&2 ;;
        @silent) quiet=yes ;;
        *) printf '%s\n' "$next" | sed "s/@UUID@/$2/g" ;;
        esac
    done 3<"$file"
    [ -n "$quiet" ] || result "$2" success false completed
}

while hear; do
    case $line in
    *'"subtype":"initialize"'*)
        say '{"type":"control_response","response":{"subtype":"success","request_id":"'"$(field request_id "$line")"'","response":{"commands":[],"models":[],"account":{"apiKeySource":"test"},"claude_code_version":"2.1.329","current_permission_mode":"default"}}}'
        ;;
    *'"subtype":"end_session"'*) success "$line" && exit 0 ;;
    *'"type":"user"'*)
        words=$(field content "$line")
        turn "${words%% *}" "$(field uuid "$line")"
        ;;
    *'"subtype":'*) success "$line" ;;
    esac
done
