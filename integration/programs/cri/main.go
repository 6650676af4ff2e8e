// cri speaks the Container Runtime Interface to containerd as a kubelet does,
// one call per run.
//
//	cri run     CONFIG       RunPodSandbox with a PodSandboxConfig in JSON; prints the sandbox's ID
//	cri stop    SANDBOX_ID   StopPodSandbox
//	cri remove  SANDBOX_ID   RemovePodSandbox
//	cri list                 ListPodSandbox, in JSON
//	cri status               Status, in JSON
//	cri create  REQUEST      CreateContainer with a CreateContainerRequest in JSON, then StartContainer;
//	                         prints the container's ID
//	cri exec    REQUEST      ExecSync with an ExecSyncRequest in JSON; prints its standard output
//	cri end     ID           StopContainer at once, then RemoveContainer
//	cri measure REQUEST      fifty sandboxes with one container each, one after the other; prints the
//	                         microseconds of RunPodSandbox and of CreateContainer, a line for each
//
// A REQUEST that begins with @ is the name of a file with it. CRI_SOCKET names containerd's socket. Exit status: 0 done, 1 the call failed
// (its gRPC status goes to standard error), 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet waits for RunPodSandbox is twice this.
const patience = 2 * time.Minute

// How many sandboxes are measured.
const rounds = 50

// create starts a container and gives its ID.
func create(ctx context.Context, client runtime.RuntimeServiceClient, request *runtime.CreateContainerRequest) (string, error) {
	response, err := client.CreateContainer(ctx, request)
	if err != nil {
		return "", err
	}
	_, err = client.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: response.ContainerId})
	return response.ContainerId, err
}

func exec(ctx context.Context, client runtime.RuntimeServiceClient, request *runtime.ExecSyncRequest) (string, error) {
	response, err := client.ExecSync(ctx, request)
	if err == nil && response.ExitCode != 0 {
		err = fmt.Errorf("exit status %d: %s", response.ExitCode, response.Stderr)
	}
	return string(response.GetStdout()), err
}

func end(ctx context.Context, client runtime.RuntimeServiceClient, container string) error {
	_, err := client.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: container})
	_, removed := client.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: container})
	return errors.Join(err, removed)
}

// measure gives the durations of a round's two calls.
func measure(client runtime.RuntimeServiceClient, request *runtime.CreateContainerRequest, round uint32) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request.SandboxConfig.Metadata.Attempt = round
	begun := time.Now()
	sandbox, err := client.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: request.SandboxConfig})
	if err != nil {
		return "", err
	}
	run := time.Since(begun)
	request.PodSandboxId = sandbox.PodSandboxId
	begun = time.Now()
	_, err = client.CreateContainer(ctx, request)
	created := time.Since(begun)
	_, stopped := client.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
	_, removed := client.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
	return fmt.Sprintf("%d %d", run.Microseconds(), created.Microseconds()), errors.Join(err, stopped, removed)
}

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
	read := func(message proto.Message) error {
		text := []byte(argument)
		if name, is := strings.CutPrefix(argument, "@"); is {
			var err error
			if text, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		return protojson.Unmarshal(text, message)
	}
	switch method {
	case "run":
		var config runtime.PodSandboxConfig
		if err := read(&config); err != nil {
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
	case "create":
		var request runtime.CreateContainerRequest
		if err := read(&request); err != nil {
			return "", err
		}
		return create(ctx, client, &request)
	case "exec":
		var request runtime.ExecSyncRequest
		if err := read(&request); err != nil {
			return "", err
		}
		return exec(ctx, client, &request)
	case "end":
		return "", end(ctx, client, argument)
	case "measure":
		var request runtime.CreateContainerRequest
		if err := read(&request); err != nil {
			return "", err
		}
		var lines []string
		for round := range uint32(rounds) {
			line, err := measure(client, &request, round)
			if err != nil {
				return "", err
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "\n"), nil
	}
	return "", fmt.Errorf("no such call: %s", method)
}

func main() {
	socket := os.Getenv("CRI_SOCKET")
	if len(os.Args) < 2 || len(os.Args) > 3 || socket == "" {
		fmt.Fprintln(os.Stderr, "usage: CRI_SOCKET=PATH cri run|stop|remove|list|status|create|exec|end|measure [ARGUMENT]")
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
