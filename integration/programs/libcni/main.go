// libcni drives a CNI network the way a container runtime does, one call per
// run, on the reference library. It exists because cnitool, which the demo
// uses, cannot choose the container ID and cannot say which attachments are
// still valid when it asks for garbage collection.
//
//	libcni add    -net N -id ID -netns PATH [-ifname I] [-cap JSON] [-args K=V;K=V]
//	libcni check  (the same)
//	libcni del    (the same; -netns may be left out)
//	libcni gc     -net N [-valid ID:IFNAME]... [-valid-as list|null|absent]
//	libcni status -net N
//
// All take -conf-dir, -bin-dir and -cache-dir. The result of add goes to
// standard output. Exit status: 0 done, 1 the call failed, 2 wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// attachments collects every -valid flag.
type attachments []types.GCAttachment

func (a *attachments) String() string { return fmt.Sprint(*a) }

func (a *attachments) Set(text string) error {
	id, ifname, ok := strings.Cut(text, ":")
	if !ok || id == "" || ifname == "" {
		return fmt.Errorf("want CONTAINER_ID:IFNAME, got %q", text)
	}
	*a = append(*a, types.GCAttachment{ContainerID: id, IfName: ifname})
	return nil
}

// gcArgs gives the three shapes in which a runtime can tell what is still
// valid. They differ on the wire: a list, the word null, or no key at all.
func gcArgs(form string, valid attachments) (*libcni.GCArgs, error) {
	if form != "list" && len(valid) > 0 {
		return nil, fmt.Errorf("-valid goes with -valid-as list only")
	}
	switch form {
	case "list":
		return &libcni.GCArgs{ValidAttachments: append([]types.GCAttachment{}, valid...)}, nil
	case "null":
		return &libcni.GCArgs{}, nil
	case "absent":
		return nil, nil
	}
	return nil, fmt.Errorf("-valid-as takes list, null or absent, not %q", form)
}

// cniArgs reads CNI_ARGS as the specification writes it: K=V;K=V.
func cniArgs(text string) ([][2]string, error) {
	var pairs [][2]string
	for _, pair := range strings.Split(text, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("-args wants K=V;K=V, got %q", pair)
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func usage(err error) {
	fmt.Fprintf(os.Stderr, "libcni: %v (libcni add|check|del|gc|status -h lists the flags)\n", err)
	os.Exit(2)
}

// fail prints the CNI error code too when the plugin gave one, because tests
// want to see it and the library's own text leaves it out.
func fail(err error) {
	var cniErr *types.Error
	if errors.As(err, &cniErr) {
		fmt.Fprintf(os.Stderr, "libcni: code %d: %v\n", cniErr.Code, err)
	} else {
		fmt.Fprintf(os.Stderr, "libcni: %v\n", err)
	}
	os.Exit(1)
}

func main() {
	if len(os.Args) < 2 {
		usage(errors.New("no command given"))
	}
	command := os.Args[1]
	switch command {
	case "add", "check", "del", "gc", "status":
	default:
		usage(fmt.Errorf("unknown command %q", command))
	}

	flags := flag.NewFlagSet("libcni "+command, flag.ExitOnError)
	var valid attachments
	network := flags.String("net", "", "name of the network (required)")
	id := flags.String("id", "", "container ID")
	netns := flags.String("netns", "", "path of the network namespace")
	ifname := flags.String("ifname", "eth0", "interface name in the container")
	capJSON := flags.String("cap", os.Getenv("CAP_ARGS"), "capability arguments, a JSON object")
	args := flags.String("args", os.Getenv("CNI_ARGS"), "CNI_ARGS, K=V;K=V")
	confDir := flags.String("conf-dir", envOr("NETCONFPATH", "/etc/cni/net.d"), "where the network configuration lies")
	binDir := flags.String("bin-dir", envOr("CNI_PATH", "/usr/lib/cni"), "where the plugins lie, separated by colons")
	cacheDir := flags.String("cache-dir", libcni.CacheDir, "where results are kept between calls")
	timeout := flags.Duration("timeout", 2*time.Minute, "kill the plugin after this long")
	validAs := flags.String("valid-as", "list", "gc: send the valid attachments as list, null or absent")
	flags.Var(&valid, "valid", "gc: a valid attachment, CONTAINER_ID:IFNAME (repeatable)")
	_ = flags.Parse(os.Args[2:])

	if flags.NArg() > 0 {
		usage(fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if *network == "" {
		usage(errors.New("-net is required"))
	}
	runtime := &libcni.RuntimeConf{ContainerID: *id, NetNS: *netns, IfName: *ifname}
	if command == "add" || command == "check" || command == "del" {
		if *id == "" || (command != "del" && *netns == "") {
			usage(errors.New("-id and -netns are required"))
		}
		pairs, err := cniArgs(*args)
		if err != nil {
			usage(err)
		}
		runtime.Args = pairs
		if *capJSON != "" {
			if err := json.Unmarshal([]byte(*capJSON), &runtime.CapabilityArgs); err != nil {
				usage(fmt.Errorf("-cap is no JSON object: %w", err))
			}
		}
	}
	gc, err := gcArgs(*validAs, valid)
	if err != nil {
		usage(err)
	}

	list, err := libcni.LoadNetworkConf(*confDir, *network)
	if err != nil {
		fail(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(*binDir), *cacheDir, nil)
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()

	switch command {
	case "add":
		var result types.Result
		if result, err = cni.AddNetworkList(ctx, list, runtime); err == nil {
			err = result.Print()
		}
	case "check":
		err = cni.CheckNetworkList(ctx, list, runtime)
	case "del":
		err = cni.DelNetworkList(ctx, list, runtime)
	case "gc":
		err = cni.GCNetworkList(ctx, list, gc)
	case "status":
		err = cni.GetStatusNetworkList(ctx, list)
	}
	if err != nil {
		fail(err)
	}
}
