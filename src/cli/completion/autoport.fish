# Completion of autoport for fish: the program itself says what can come next, pods and ports included.
complete -c autoport -f -a '(autoport complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
for name in state-dir bin-dir conf-dir conflist config link
    complete -c autoport -l $name -r -F
end
