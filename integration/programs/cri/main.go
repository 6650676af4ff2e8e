// cri speaks the Container Runtime Interface to containerd as a kubelet does,
// one call per run.
//
//	cri run    CONFIG       RunPodSandbox with a PodSandboxConfig in JSON; prints the sandbox's ID
//	cri stop   SANDBOX_ID   StopPodSandbox
//	cri remove SANDBOX_ID   RemovePodSandbox
//	cri list                ListPodSandbox, in JSON
//	cri status              Status, in JSON
//
// CRI_SOCKET names containerd's socket. Exit status: 0 done, 1 the call failed
// (its gRPC status goes to standard error), 2 wrong usage.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet waits for RunPodSandbox is twice this.
const patience = 2 * time.Minute

func call(client runtime.RuntimeServiceClient, method, argument string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	show := func(message proto.Message, err error) (string, error) {
		if err != nil {
			return "", err
		}
		text, err := protojson.Marshal(message)
		return string(text), err
	}
	switch method {
	case "run":
		var config runtime.PodSandboxConfig
		if err := protojson.Unmarshal([]byte(argument), &config); err != nil {
			return "", err
		}
		response, err := client.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: &config})
		return response.GetPodSandboxId(), err
	case "stop":
		_, err := client.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: argument})
		return "", err
	case "remove":
		_, err := client.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: argument})
		return "", err
	case "list":
		return show(client.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{}))
	case "status":
		return show(client.Status(ctx, &runtime.StatusRequest{}))
	}
	return "", fmt.Errorf("no such call: %s", method)
}

func main() {
	socket := os.Getenv("CRI_SOCKET")
	if len(os.Args) < 2 || len(os.Args) > 3 || socket == "" {
		fmt.Fprintln(os.Stderr, "usage: CRI_SOCKET=PATH cri run|stop|remove|list|status [ARGUMENT]")
		os.Exit(2)
	}
	argument := ""
	if len(os.Args) == 3 {
		argument = os.Args[2]
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		defer connection.Close()
		var text string
		if text, err = call(runtime.NewRuntimeServiceClient(connection), os.Args[1], argument); err == nil {
			fmt.Println(text)
			return
		}
	}
	fmt.Fprintf(os.Stderr, "cri %s: %v\n", os.Args[1], err)
	os.Exit(1)
}
