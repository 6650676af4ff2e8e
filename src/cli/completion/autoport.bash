# Completion of autoport for bash: the program itself says what can come next, pods and ports included.
_autoport() {
    local IFS=$'\n'
    COMPREPLY=($(autoport complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _autoport autoport
