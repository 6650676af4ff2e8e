// An API server for tests of one node. Discovery, watch, server-side apply, OpenAPI, CRDs, admission policies
// and webhooks are upstream's code: k8s.io/apiserver, k8s.io/apiextensions-apiserver and k8s.io/api 0.36, as
// Debian packages them. The storage of the built-in types is in this directory, because k8s.io/kubernetes is in
// no package. With it are missing: validation, some of the defaults, RBAC, quota. Every client may do everything.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	noopoteltrace "go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	extoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	generated "autoport/apiserver/openapi"
)

var (
	fEtcd      = pflag.String("etcd-servers", "http://127.0.0.1:2379", "")
	fBind      = pflag.String("bind-address", "0.0.0.0", "")
	fPort      = pflag.Int("secure-port", 6443, "")
	fAdvertise = pflag.String("advertise-address", "", "")
	fCert      = pflag.String("tls-cert-file", "", "")
	fKey       = pflag.String("tls-private-key-file", "", "")
	fCA        = pflag.String("client-ca-file", "", "")
	fSvc       = pflag.String("service-cluster-ip-range", "10.96.0.0/16", "")
	fSAKey     = pflag.String("service-account-signing-key-file", "", "RSA key; turns service account tokens on")
	fIssuer    = pflag.String("service-account-issuer", "https://kubernetes.default.svc", "")
	fV         = pflag.String("v", "1", "log level")
	fGates     = pflag.String("feature-gates", "", "A=true,B=false")
)

func must(err error) {
	if err != nil {
		klog.Background().Error(err, "fatal")
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	pflag.Parse()
	var lv klog.Level
	must(lv.Set(*fV))
	must(utilfeature.DefaultMutableFeatureGate.Set("APIServerIdentity=false,StorageVersionAPI=false"))
	if *fGates != "" {
		must(utilfeature.DefaultMutableFeatureGate.Set(*fGates))
	}
	ctx := genericapiserver.SetupSignalContext()

	cfg := genericapiserver.NewConfig(Codecs)
	cfg.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	cfg.FeatureGate = utilfeature.DefaultFeatureGate
	cfg.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	cfg.EnableProfiling = false
	defs := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generated.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(Scheme, extserver.Scheme)
	cfg.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(defs, namer)
	cfg.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(defs, namer)
	cfg.OpenAPIConfig.Info.Title, cfg.OpenAPIV3Config.Info.Title = "Kubernetes (test)", "Kubernetes (test)"
	cfg.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")

	ss := options.NewSecureServingOptions()
	ss.BindAddress, ss.BindPort = net.ParseIP(*fBind), *fPort
	ss.ServerCert.CertKey = options.CertKey{CertFile: *fCert, KeyFile: *fKey}
	must(ss.WithLoopback().ApplyTo(&cfg.SecureServing, &cfg.LoopbackClientConfig))
	if *fAdvertise != "" {
		cfg.PublicAddress = net.ParseIP(*fAdvertise)
	}
	ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", *fCA)
	must(err)
	must(cfg.Authentication.ApplyClientCert(ca, cfg.SecureServing))
	auths := []authenticatorRequest{x509.NewDynamic(ca.VerifyOptions, x509.CommonNameUserConversion)}
	if *fSAKey != "" {
		must(loadSAKey(*fSAKey))
		auths = append(auths, saAuthenticator())
	}
	cfg.Authentication.Authenticator = union.New(append(auths, anonymous.NewAuthenticator(nil))...)
	cfg.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	cfg.RuleResolver = authorizerfactory.NewAlwaysAllowAuthorizer()

	etcd := options.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", nil))
	etcd.StorageConfig.Transport.ServerList = strings.Split(*fEtcd, ",")
	enc := serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(Scheme, nil)
	rc := serverstorage.NewResourceConfig()
	for gv := range served {
		rc.EnableVersions(gv)
	}
	cfg.MergedResourceConfig = rc
	factory := serverstorage.NewDefaultStorageFactory(etcd.StorageConfig, "application/json", Codecs, enc, rc, nil)
	must(etcd.ApplyWithStorageFactoryTo(factory, cfg))

	client, err := kubernetes.NewForConfig(cfg.LoopbackClientConfig)
	must(err)
	dyn, err := dynamic.NewForConfig(cfg.LoopbackClientConfig)
	must(err)
	inf := informers.NewSharedInformerFactory(client, 10*time.Minute)
	must(options.NewAdmissionOptions().ApplyTo(cfg, inf, client, dyn, utilfeature.DefaultFeatureGate, cfg.EffectiveVersion, webhookInit(inf)))

	// CRDs: upstream's server, as the delegate
	xc := *cfg
	xc.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	xc.RESTOptionsGetter = nil
	xe := *etcd
	xe.StorageConfig.Codec = extserver.Codecs.LegacyCodec(extv1.SchemeGroupVersion)
	xe.StorageConfig.EncodeVersioner = nil
	xe.SkipHealthEndpoints = true
	must(xe.ApplyTo(&xc))
	xrc := serverstorage.NewResourceConfig()
	xrc.EnableVersions(extv1.SchemeGroupVersion)
	xc.MergedResourceConfig = xrc
	ec := extserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: xc, SharedInformerFactory: inf},
		ExtraConfig: extserver.ExtraConfig{
			CRDRESTOptionsGetter: extoptions.NewCRDRESTOptionsGetter(xe, nil, xc.StorageObjectCountTracker),
			MasterCount:          1,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, cfg.LoopbackClientConfig, noopoteltrace.NewTracerProvider()),
			ServiceResolver:      svcResolver{inf},
		},
	}
	ext, err := ec.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(http.NotFoundHandler()))
	must(err)

	comp := cfg.Complete(inf)
	srv, err := comp.New("kube-apiserver", ext.GenericAPIServer)
	must(err)
	must(install(srv, comp.RESTOptionsGetter))
	must(srv.AddPostStartHook("start-informers", func(h genericapiserver.PostStartHookContext) error {
		inf.Start(h.Done())
		return nil
	}))
	must(srv.AddPostStartHook("bootstrap", func(h genericapiserver.PostStartHookContext) error {
		go bootstrap(h, client)
		return nil
	}))
	must(srv.PrepareRun().RunWithContext(ctx))
}

// bootstrap creates the namespaces, and the Service of this server
func bootstrap(ctx context.Context, c kubernetes.Interface) {
	try := func(err error) {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			klog.Background().Error(err, "bootstrap")
		}
	}
	for _, n := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
		try(err)
	}
	if *fAdvertise == "" {
		return
	}
	m := metav1.ObjectMeta{Name: "kubernetes", Namespace: "default", Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}}
	_, err := c.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{ClusterIP: firstSvcIP(), Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: "TCP", TargetPort: intstrInt(*fPort)}}}}, metav1.CreateOptions{})
	try(err)
	_, err = c.CoreV1().Endpoints("default").Create(ctx, &corev1.Endpoints{ObjectMeta: m, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: *fAdvertise}}, Ports: []corev1.EndpointPort{{Name: "https", Port: int32(*fPort), Protocol: "TCP"}}}}}, metav1.CreateOptions{})
	try(err)
	m.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	p, tcp, name, yes := int32(*fPort), corev1.ProtocolTCP, "https", true
	_, err = c.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{*fAdvertise}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &p, Protocol: &tcp}}}, metav1.CreateOptions{})
	try(err)
}

func kubeletTransport() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}
