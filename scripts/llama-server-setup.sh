#!/usr/bin/env bash
# Fetch a model, and start, stop and watch a llama-server, without Python.
# For bash 3.2 and newer, on macOS and Linux.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: llama-server-setup.sh download | start | stop | status

  download  fetch the model (2 GB) and check its SHA-256; a cut download goes on where it ended
  start     start llama-server with one slot, and wait until it is ready
  stop      end the server that start started
  status    say whether it runs and is ready (exit code 0 if it is)

Environment variables, with their defaults:
  SWARM_REPRO_MODEL_DIR       where models, logs and pid files are (models/ beside scripts/)
  SWARM_REPRO_MODEL_URL       what to download (Llama 3.2 3B Instruct Q4_K_M, from Hugging Face)
  SWARM_REPRO_MODEL_SHA256    its SHA-256 (what the server names in X-Linked-Etag)
  SWARM_REPRO_MODEL           the GGUF to serve (the downloaded one)
  SWARM_REPRO_LLAMA_SERVER    the llama-server to start (llama-server on PATH)
  SWARM_REPRO_HOST            address to listen on (127.0.0.1)
  SWARM_REPRO_PORT            port to listen on (8080)
  SWARM_REPRO_THREADS         threads (the number of cores)
  SWARM_REPRO_CTX_SIZE        context in tokens (8192)
  SWARM_REPRO_LOADING_LIMIT_S seconds the model may take to load (300)
  SWARM_REPRO_STOP_LIMIT_S    seconds the server has to end by itself before it is killed (10)

Exit codes: 0 fine; 1 not running or not ready (status); 2 usage or bad input; 4 no server, no
connection.
TEXT
}

say() { printf '%s\n' "$*" >&2; }

# die CODE MESSAGE...
die() {
  local code=$1
  shift
  say "error: $*"
  exit "$code"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model_dir=${SWARM_REPRO_MODEL_DIR:-$root/models}
url=${SWARM_REPRO_MODEL_URL:-https://huggingface.co/bartowski/Llama-3.2-3B-Instruct-GGUF/resolve/main/Llama-3.2-3B-Instruct-Q4_K_M.gguf}
url_path=${url%%[?#]*}
model=${SWARM_REPRO_MODEL:-$model_dir/${url_path##*/}}
host=${SWARM_REPRO_HOST:-127.0.0.1}
port=${SWARM_REPRO_PORT:-8080}
ctx_size=${SWARM_REPRO_CTX_SIZE:-8192}
loading_limit_s=${SWARM_REPRO_LOADING_LIMIT_S:-300}
stop_limit_s=${SWARM_REPRO_STOP_LIMIT_S:-10}
pid_file=$model_dir/llama-server.$port.pid
log_file=$model_dir/llama-server.$port.log

# require_number NAME VALUE LARGEST
require_number() {
  case $2 in
    '' | 0* | *[!0-9]* | ????????*) die 2 "$1 is '$2'; give a number from 1 to $3" ;;
  esac
  [ "$2" -le "$3" ] || die 2 "$1 is $2; give a number from 1 to $3"
}

require_curl() {
  command -v curl >/dev/null || die 2 "curl is needed; install it with your package manager"
}

# --- download

sha256_of() {
  local line
  if command -v shasum >/dev/null; then
    line=$(shasum -a 256 <"$1")
  elif command -v sha256sum >/dev/null; then
    line=$(sha256sum <"$1")
  else
    die 2 "neither shasum nor sha256sum is here, so the download cannot be checked; install one"
  fi
  printf '%s\n' "${line%% *}"
}

is_sha256() {
  case $1 in
    *[!0-9a-f]*) return 1 ;;
  esac
  [ "${#1}" -eq 64 ]
}

# The digest that is wanted: the one given, the one checked earlier, or the one the server names.
wanted_sha256() {
  local digest head
  digest=$(printf '%s' "${SWARM_REPRO_MODEL_SHA256:-}" | tr 'ABCDEF' 'abcdef')
  if [ -n "$digest" ]; then
    is_sha256 "$digest" ||
      die 2 "SWARM_REPRO_MODEL_SHA256 is no SHA-256; give its 64 hexadecimal digits"
    printf '%s\n' "$digest"
    return
  fi
  if [ -f "$model" ] && [ -f "$model.sha256" ]; then
    read -r digest _ <"$model.sha256" || true
    if is_sha256 "$digest"; then
      printf '%s\n' "$digest"
      return
    fi
  fi
  # The header is in the first answer, before any redirect.
  head=$(curl --silent --show-error --head --proto '=http,https' --connect-timeout 20 \
    --max-time 60 "$url") || die 4 "cannot reach $url; check the connection, or set SWARM_REPRO_MODEL_URL"
  digest=$(printf '%s\n' "$head" | LC_ALL=C tr '[:upper:]' '[:lower:]' | tr -d '\r"' |
    awk '$1 == "x-linked-etag:" { print $2; exit }')
  is_sha256 "$digest" || die 2 "the server does not say which SHA-256 the file has, and nothing" \
    "unchecked is kept; set SWARM_REPRO_MODEL_SHA256 (Hugging Face shows it on the file's page)"
  printf '%s\n' "$digest"
}

# fetch PARTIAL: go on with a partial file; sets http_code, returns curl's code.
http_code=''
fetch() {
  local redirects='=http,https' quiet
  case $url in
    https:*) redirects='=https' ;;
  esac
  quiet=(--silent --show-error)
  if [ -t 2 ]; then quiet=(--progress-bar); fi
  http_code=$(curl "${quiet[@]}" --fail --location --proto '=http,https' \
    --proto-redir "$redirects" --connect-timeout 20 --speed-limit 1 --speed-time 60 \
    --continue-at - --output "$1" --write-out '%{http_code}' "$url")
}

download() {
  local wanted found partial=$model.partial curl_code=0
  require_curl
  case $url in
    http://* | https://*) ;;
    *) die 2 "SWARM_REPRO_MODEL_URL is '$url'; give an http or https URL" ;;
  esac
  case $url_path in
    *.gguf) ;;
    *) die 2 "SWARM_REPRO_MODEL_URL does not end in .gguf: $url" ;;
  esac
  [ ! -d "$model" ] || die 2 "$model is a folder; move it away, or set SWARM_REPRO_MODEL"
  mkdir -p "$(dirname "$model")" || die 2 "cannot make its folder; set SWARM_REPRO_MODEL_DIR"
  wanted=$(wanted_sha256)
  if [ -f "$model" ]; then
    found=$(sha256_of "$model")
    [ "$found" = "$wanted" ] || die 2 "$model is there already, but is another file: SHA-256" \
      "$found, wanted $wanted; move it away, or set SWARM_REPRO_MODEL"
    say "$model is there already, SHA-256 $wanted"
    return
  fi
  say "fetching $url"
  fetch "$partial" || curl_code=$?
  # 33: the server cannot send parts. 416: nothing follows what is there, it is whole or it is of
  # another file.
  if [ "$curl_code" -eq 33 ] ||
    { [ "$http_code" = 416 ] && [ "$(sha256_of "$partial")" != "$wanted" ]; }; then
    rm -f "$partial"
    curl_code=0
    fetch "$partial" || curl_code=$?
  elif [ "$http_code" = 416 ]; then
    curl_code=0
  fi
  case $curl_code in
    0) ;;
    22) die 4 "the server answers $http_code for $url; check the URL" ;;
    23) die 2 "cannot write $partial; make room, or set SWARM_REPRO_MODEL_DIR, and run this again" ;;
    *) die 4 "the download was cut (curl: $curl_code); run this again to go on where it ended" ;;
  esac
  found=$(sha256_of "$partial")
  if [ "$found" != "$wanted" ]; then
    rm -f "$partial"
    die 2 "what came is not the file: SHA-256 $found, wanted $wanted; it was removed, run this" \
      "again or check the digest"
  fi
  require_gguf "$partial"
  printf '%s  %s\n' "$wanted" "${model##*/}" >"$model.sha256"
  mv "$partial" "$model"
  say "$model is there, SHA-256 $wanted"
}

require_gguf() {
  [ ! -d "$1" ] || die 2 "$1 is a folder; name the .gguf file in it"
  [ -f "$1" ] || die 2 "there is no model at $1; fetch one with '$0 download'"
  [ "$(head -c 4 "$1" | LC_ALL=C tr -d '\0')" = GGUF ] || die 2 "$1 is not a GGUF file"
}

# --- processes: an id alone proves nothing, since the system hands it out again

# process_start PID: when it started, as the system writes it; fails if it is not running.
process_start() {
  local stat fields state
  if [ -r /proc/self/stat ]; then
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # After the name in brackets: the state first, the start in ticks since boot as the 20th.
    read -r -a fields <<<"${stat##*) }"
    case ${fields[0]} in
      Z | X) return 1 ;;
    esac
    printf '%s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "${fields[19]}"
  else
    state=$(ps -o stat= -p "$1") || return 1
    case $state in
      Z*) return 1 ;;
    esac
    LC_ALL=C TZ=UTC ps -o lstart= -p "$1"
  fi
}

process_command() {
  if [ -r /proc/self/cmdline ]; then
    LC_ALL=C tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null
    printf '\n'
  else
    ps -ww -o command= -p "$1"
  fi
}

# remember PID COMMAND: COMMAND is empty as long as a wrapper may still become another program.
remember() {
  printf '%s\n%s\n%s\n' "$1" "$(process_start "$1")" "$2" >"$pid_file"
}

# Sets pid if the process of the pid file runs and is the one that was started; else cleans up.
trusted_pid() {
  local started='' command=''
  pid=''
  [ -f "$pid_file" ] || return 1
  { read -r pid && IFS= read -r started && IFS= read -r command; } <"$pid_file" || true
  case $pid in
    '' | *[!0-9]*) ;;
    *)
      if [ -n "$started" ] && [ "$(process_start "$pid" || true)" = "$started" ]; then
        if [ -z "$command" ] || [ "$(process_command "$pid")" = "$command" ]; then
          return 0
        fi
      fi
      ;;
  esac
  say "removing $pid_file: process '$pid' is not the server that was started, it has ended"
  rm -f "$pid_file"
  pid=''
  return 1
}

# --- server

find_server() {
  local candidate=${SWARM_REPRO_LLAMA_SERVER:-}
  if [ -n "$candidate" ]; then
    [ -f "$candidate" ] && [ -x "$candidate" ] ||
      die 2 "SWARM_REPRO_LLAMA_SERVER is '$candidate', which is no program"
    printf '%s\n' "$candidate"
    return
  fi
  for candidate in "$(command -v llama-server || true)" /opt/homebrew/bin/llama-server \
    /usr/local/bin/llama-server /home/linuxbrew/.linuxbrew/bin/llama-server; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  case $(uname -s) in
    Darwin) die 4 "no llama-server here; get it with 'brew install llama.cpp'" ;;
    *) die 4 "no llama-server here; get it from https://github.com/ggml-org/llama.cpp/releases," \
      "with 'brew install llama.cpp', or with 'pip install xllamacpp' and 'swarm-repro server start'" ;;
  esac
}

cores() {
  local count=''
  if [ "$(uname -s)" = Darwin ]; then
    # Efficiency cores make the others wait.
    count=$(sysctl -n hw.perflevel0.physicalcpu 2>/dev/null || sysctl -n hw.physicalcpu 2>/dev/null ||
      sysctl -n hw.ncpu 2>/dev/null || true)
  fi
  printf '%s\n' "${count:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 4)}"
}

reachable_host() {
  case $host in
    0.0.0.0) echo 127.0.0.1 ;;
    ::) echo '[::1]' ;;
    *:*) echo "[$host]" ;;
    *) echo "$host" ;;
  esac
}

# Prints the HTTP status of /health and its body; fails with curl's code.
ask_health() {
  curl --silent --noproxy '*' --max-time 2 --write-out ' %{http_code}' \
    "http://$(reachable_host):$port/health"
}

is_ready() {
  case $(ask_health || true) in
    *'"status":"ok"'*' 200' | *'"status": "ok"'*' 200') return 0 ;;
  esac
  return 1
}

# give_up PID: end a child of this script that is still loading.
give_up() {
  kill -KILL "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  rm -f "$pid_file"
}

start() {
  local server threads curl_code=0 waited_s=0 began child command variable
  require_curl
  require_number SWARM_REPRO_PORT "$port" 65535
  require_number SWARM_REPRO_CTX_SIZE "$ctx_size" 9999999
  require_number SWARM_REPRO_LOADING_LIMIT_S "$loading_limit_s" 86400
  threads=${SWARM_REPRO_THREADS:-$(cores)}
  require_number SWARM_REPRO_THREADS "$threads" 1024
  require_gguf "$model"
  model=$(cd "$(dirname "$model")" && pwd)/${model##*/}
  server=$(find_server)
  mkdir -p "$model_dir" || die 2 "cannot make $model_dir; set SWARM_REPRO_MODEL_DIR"
  if trusted_pid; then
    die 2 "the server on port $port runs already (process $pid); end it with '$0 stop'"
  fi
  ask_health >/dev/null || curl_code=$?
  case $curl_code in
    7) ;; # refused: nothing listens there
    3 | 6) die 2 "SWARM_REPRO_HOST is '$host', which is no address of this machine" ;;
    *) die 2 "port $port is taken by another program; end it, or set SWARM_REPRO_PORT" ;;
  esac
  # llama-server reads flags from these too; it is to have the ones given here.
  for variable in ${!LLAMA_ARG_@} ${LLAMA_API_KEY+LLAMA_API_KEY}; do
    say "note: $variable is kept from the server"
    unset "$variable"
  done
  nohup "$server" -m "$model" --alias "${model##*/}" --host "$host" --port "$port" -c "$ctx_size" -t "$threads" -np 1 \
    </dev/null >"$log_file" 2>&1 &
  child=$!
  trap 'give_up "$child"; exit 130' INT TERM
  remember "$child" '' || true
  began=$SECONDS
  until is_ready; do
    if ! process_start "$child" >/dev/null; then
      rm -f "$pid_file"
      say "the end of $log_file:"
      tail -n 5 "$log_file" >&2
      die 4 "llama-server ended while it was starting"
    fi
    waited_s=$((SECONDS - began))
    if [ "$waited_s" -ge "$loading_limit_s" ]; then
      give_up "$child"
      die 4 "llama-server (process $child) was not ready after $waited_s s and has been ended;" \
        "its log is $log_file"
    fi
    if [ -t 2 ]; then printf '\rloading the model, %s s' "$waited_s" >&2; fi
    sleep 0.2
  done
  if [ -t 2 ]; then printf '\r' >&2; fi
  process_start "$child" >/dev/null ||
    die 4 "another program answers on port $port; set SWARM_REPRO_PORT"
  # By now a wrapper has become the program that serves.
  command=$(process_command "$child")
  remember "$child" "$command"
  trap - INT TERM
  say "http://$(reachable_host):$port/v1 is ready: ${model##*/}, one slot, $threads threads"
  say "process $child, log $log_file; end it with '$0 stop'"
}

stop() {
  local name started tries
  require_number SWARM_REPRO_STOP_LIMIT_S "$stop_limit_s" 3600
  if ! trusted_pid; then
    say "no server that this script started runs on port $port"
    return
  fi
  started=$(process_start "$pid" || true)
  for name in TERM KILL; do
    kill -s "$name" "$pid" 2>/dev/null || true
    for ((tries = 0; tries < stop_limit_s * 5; tries++)); do
      if [ "$(process_start "$pid" || true)" != "$started" ]; then
        rm -f "$pid_file"
        say "ended process $pid on port $port"
        return
      fi
      sleep 0.2
    done
  done
  die 4 "process $pid is still there after SIGKILL; look at it with ps"
}

status() {
  if ! trusted_pid; then
    echo "no server that this script started runs on port $port"
    return 1
  fi
  if is_ready; then
    echo "http://$(reachable_host):$port/v1 is ready (process $pid, log $log_file)"
  else
    echo "process $pid runs but is not ready, see $log_file"
    return 1
  fi
}

[ "$#" -eq 1 ] || {
  usage >&2
  exit 2
}
case $1 in
  download | start | stop | status) "$1" ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
