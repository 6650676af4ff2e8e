//! The examples below each command's help, and in its man page.

pub(crate) const LIST: &str = "\
Examples:
  autoport list                          all host ports in use
  autoport list -n shop --protocol udp   those of a namespace in one protocol
  autoport list --port 20000-20010       a range
  autoport list --watch                  again whenever the list has changed
  autoport list -o json                  for programs";

pub(crate) const SHOW: &str = "\
Examples:
  autoport show 8080        the holder of a port
  autoport show shop/web    a pod
  autoport show 4f2a        a container, by the beginning of its ID
  autoport show 53/udp -o yaml";

pub(crate) const ENV: &str = "\
Examples:
  autoport env shop/web";

pub(crate) const STATUS: &str = "\
Examples:
  autoport status
  autoport status -o json";

pub(crate) const CONFIG: &str = "\
Examples:
  autoport config
  autoport config --conf-dir /var/lib/rancher/k3s/agent/etc/cni/net.d";

pub(crate) const EXPLAIN: &str = "\
Examples:
  autoport explain --annotation 'http=8080, game=7777/tcp+udp'
  autoport explain < request.json
  autoport explain --nft < request.json";

pub(crate) const GC: &str = "\
Examples:
  autoport gc --dry-run            what would be released
  autoport gc --dry-run -o wide    also why the others are kept
  autoport gc";

pub(crate) const RESERVE: &str = "\
Examples:
  autoport reserve dns 53/udp 53/tcp --persist
  autoport reserve media 9000-9010/udp
  autoport reserve web 443@192.0.2.1";

pub(crate) const RELEASE: &str = "\
Examples:
  autoport release dns";

pub(crate) const INSTALL: &str = "\
Examples:
  autoport install --dry-run    show what would change
  autoport install
  autoport install --set portRange=30000-31999 --set minPort=1024";

pub(crate) const UNINSTALL: &str = "\
Examples:
  autoport uninstall --dry-run    show what would change
  autoport uninstall";

pub(crate) const REPAIR: &str = "\
Examples:
  autoport repair            after damage to the table
  autoport repair --adopt    after the state directory was deleted
  autoport repair --watch    as a service";

pub(crate) const DOCTOR: &str = "\
Examples:
  autoport doctor
  autoport doctor --bin-dir /usr/lib/cni";

pub(crate) const TRACE: &str = "\
Examples:
  autoport trace 8080                        from a client outside the node
  autoport trace shop/web                    the port of a pod
  autoport trace 53/udp --from 192.0.2.100   from this client
  autoport trace 8080 --probe                and send a packet";

pub(crate) const VERSION: &str = "\
Examples:
  autoport version
  autoport version -o json";

pub(crate) const COMPLETION: &str = "\
Examples:
  autoport completion bash > /usr/share/bash-completion/completions/autoport
  autoport completion zsh > /usr/share/zsh/vendor-completions/_autoport
  autoport completion fish > /usr/share/fish/vendor_completions.d/autoport.fish";

pub(crate) const REPORT: &str = "\
Examples:
  autoport report
  autoport report /tmp/report.tar.gz";
