// echo is what runs in the containers of the clients' tests: it answers on TCP
// and UDP with its name and with the address it was asked from, as
// integration/stage/echo.rs does in the pods that have no runtime.
//
//	echo [PORT...]           the name is the host name; $NAME is the port that the environment names. Unless
//	                         told, ports 80 and 81 as far as they are free: on the network of the node there
//	                         are several
//	echo -name NAME PORT...  where containers share a host name
//	echo -tell FILE          what is in the file too, on TCP port 82
//	echo -print FILE         prints the file, and ends
//	echo -write FILE         writes it, and ends
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func answer(name string, peer net.Addr) []byte {
	address := netip.MustParseAddrPort(peer.String()).Addr().Unmap()
	return []byte(fmt.Sprintf("%s %s", name, address))
}

// tell answers on port 82 with what the file says at that moment.
func tell(file string) {
	listener, err := net.Listen("tcp", ":82")
	if err != nil {
		log.Fatal(err)
	}
	for {
		if connection, err := listener.Accept(); err == nil {
			text, err := os.ReadFile(file)
			if err != nil {
				text = []byte(err.Error())
			}
			_, _ = connection.Write(text)
			_ = connection.Close()
		}
	}
}

func main() {
	host, _ := os.Hostname()
	name := flag.String("name", host, "what to answer")
	told := flag.String("tell", "", "a file whose content to tell")
	printed := flag.String("print", "", "a file to print")
	written := flag.String("write", "", "a file to write")
	flag.Parse()
	if *written != "" {
		if err := os.WriteFile(*written, nil, 0o600); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *printed != "" {
		text, err := os.ReadFile(*printed)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(string(text))
		return
	}
	if *told != "" {
		go tell(*told)
	}
	ports := flag.Args()
	complain := log.Fatal
	if len(ports) == 0 {
		ports = []string{"80", "81"}
		complain = log.Print
	}
	for _, port := range ports {
		if variable, is := strings.CutPrefix(port, "$"); is {
			port = os.Getenv(variable)
		}
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			complain(err)
			continue
		}
		socket, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				if connection, err := listener.Accept(); err == nil {
					_, _ = connection.Write(answer(*name, connection.RemoteAddr()))
					_ = connection.Close()
				}
			}
		}()
		go func() {
			question := make([]byte, 64)
			for {
				if _, peer, err := socket.ReadFrom(question); err == nil {
					_, _ = socket.WriteTo(answer(*name, peer), peer)
				}
			}
		}()
	}
	// The first process of a PID namespace dies of no signal that it does not handle.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
}
