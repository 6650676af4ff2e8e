package main

import (
	"context"
	"encoding/binary"
	"math/rand"
	"net"

	arv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func ptr[T any](v T) *T { return &v }
func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
func defp[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
func intstrInt(i int) intstr.IntOrString { return intstr.FromInt32(int32(i)) }

// the defaults that clients and controllers rely on, after k8s.io/kubernetes' pkg/apis/*/v1/defaults.go
func setDefaults() {
	d := func(x runtime.Object, f func(any)) { Scheme.AddTypeDefaultingFunc(x, f) }
	d(&corev1.Pod{}, func(x any) { podDefaults(&x.(*corev1.Pod).Spec) })
	d(&corev1.PodList{}, func(x any) {
		for i := range x.(*corev1.PodList).Items {
			podDefaults(&x.(*corev1.PodList).Items[i].Spec)
		}
	})
	d(&corev1.PodTemplate{}, func(x any) { podDefaults(&x.(*corev1.PodTemplate).Template.Spec) })
	d(&corev1.ReplicationController{}, func(x any) {
		s := &x.(*corev1.ReplicationController).Spec
		defp(&s.Replicas, 1)
		if s.Template != nil {
			podDefaults(&s.Template.Spec)
			if s.Selector == nil {
				s.Selector = s.Template.Labels
			}
		}
	})
	d(&corev1.Service{}, func(x any) {
		s := &x.(*corev1.Service).Spec
		def(&s.SessionAffinity, corev1.ServiceAffinityNone)
		def(&s.Type, corev1.ServiceTypeClusterIP)
		defp(&s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
		for i := range s.Ports {
			p := &s.Ports[i]
			def(&p.Protocol, corev1.ProtocolTCP)
			if p.TargetPort == (intstr.IntOrString{}) {
				p.TargetPort = intstr.FromInt32(p.Port)
			}
		}
		if s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer {
			def(&s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
		}
	})
	d(&corev1.Endpoints{}, func(x any) {
		for i := range x.(*corev1.Endpoints).Subsets {
			for j := range x.(*corev1.Endpoints).Subsets[i].Ports {
				def(&x.(*corev1.Endpoints).Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	})
	d(&corev1.Secret{}, func(x any) { def(&x.(*corev1.Secret).Type, corev1.SecretTypeOpaque) })
	d(&corev1.Node{}, func(x any) {
		s := &x.(*corev1.Node).Status
		if s.Allocatable == nil && s.Capacity != nil {
			s.Allocatable = s.Capacity.DeepCopy()
		}
	})
	d(&appsv1.Deployment{}, func(x any) {
		s := &x.(*appsv1.Deployment).Spec
		podDefaults(&s.Template.Spec)
		defp(&s.Replicas, 1)
		defp(&s.RevisionHistoryLimit, 10)
		defp(&s.ProgressDeadlineSeconds, 600)
		def(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
		if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
			defp(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
			defp(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
			defp(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
		}
	})
	d(&appsv1.ReplicaSet{}, func(x any) {
		s := &x.(*appsv1.ReplicaSet).Spec
		podDefaults(&s.Template.Spec)
		defp(&s.Replicas, 1)
	})
	d(&appsv1.DaemonSet{}, func(x any) {
		s := &x.(*appsv1.DaemonSet).Spec
		podDefaults(&s.Template.Spec)
		defp(&s.RevisionHistoryLimit, 10)
		def(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
		if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			defp(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
			defp(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
			defp(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
		}
	})
	d(&appsv1.StatefulSet{}, func(x any) {
		s := &x.(*appsv1.StatefulSet).Spec
		podDefaults(&s.Template.Spec)
		defp(&s.Replicas, 1)
		defp(&s.RevisionHistoryLimit, 10)
		def(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
		def(&s.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
		if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
			defp(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
			defp(&s.UpdateStrategy.RollingUpdate.Partition, 0)
		}
	})
	d(&batchv1.Job{}, func(x any) { jobDefaults(x.(*batchv1.Job)) })
	d(&arv1.MutatingAdmissionPolicy{}, func(x any) {
		s := &x.(*arv1.MutatingAdmissionPolicy).Spec
		defp(&s.FailurePolicy, arv1.Fail)
		matchDefaults(s.MatchConstraints)
		def(&s.ReinvocationPolicy, arv1.NeverReinvocationPolicy)
	})
	d(&arv1.MutatingAdmissionPolicyBinding{}, func(x any) {
		s := &x.(*arv1.MutatingAdmissionPolicyBinding).Spec
		matchDefaults(s.MatchResources)
		if s.ParamRef != nil {
			defp(&s.ParamRef.ParameterNotFoundAction, arv1.DenyAction)
		}
	})
	d(&arv1.ValidatingAdmissionPolicy{}, func(x any) {
		s := &x.(*arv1.ValidatingAdmissionPolicy).Spec
		defp(&s.FailurePolicy, arv1.Fail)
		matchDefaults(s.MatchConstraints)
	})
	d(&arv1.ValidatingAdmissionPolicyBinding{}, func(x any) {
		s := &x.(*arv1.ValidatingAdmissionPolicyBinding).Spec
		matchDefaults(s.MatchResources)
		if s.ParamRef != nil {
			defp(&s.ParamRef.ParameterNotFoundAction, arv1.DenyAction)
		}
	})
	hook := func(fp **arv1.FailurePolicyType, mp **arv1.MatchPolicyType, ns, ob **metav1.LabelSelector, t **int32, c *arv1.WebhookClientConfig, rs []arv1.RuleWithOperations) {
		defp(fp, arv1.Fail)
		defp(mp, arv1.Equivalent)
		defp(ns, metav1.LabelSelector{})
		defp(ob, metav1.LabelSelector{})
		defp(t, 10)
		if c.Service != nil {
			defp(&c.Service.Port, 443)
		}
		for i := range rs {
			defp(&rs[i].Scope, arv1.AllScopes)
		}
	}
	d(&arv1.MutatingWebhookConfiguration{}, func(x any) {
		for i := range x.(*arv1.MutatingWebhookConfiguration).Webhooks {
			w := &x.(*arv1.MutatingWebhookConfiguration).Webhooks[i]
			hook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, &w.ClientConfig, w.Rules)
			defp(&w.ReinvocationPolicy, arv1.NeverReinvocationPolicy)
		}
	})
	d(&arv1.ValidatingWebhookConfiguration{}, func(x any) {
		for i := range x.(*arv1.ValidatingWebhookConfiguration).Webhooks {
			w := &x.(*arv1.ValidatingWebhookConfiguration).Webhooks[i]
			hook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, &w.ClientConfig, w.Rules)
		}
	})
}

func matchDefaults(m *arv1.MatchResources) {
	if m == nil {
		return
	}
	defp(&m.MatchPolicy, arv1.Equivalent)
	defp(&m.NamespaceSelector, metav1.LabelSelector{})
	defp(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rs := range [][]arv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rs {
			defp(&rs[i].Scope, arv1.AllScopes)
		}
	}
}

func jobDefaults(j *batchv1.Job) {
	s := &j.Spec
	podDefaults(&s.Template.Spec)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions, s.Parallelism = ptr(int32(1)), ptr(int32(1))
	}
	defp(&s.Parallelism, 1)
	defp(&s.BackoffLimit, 6)
	if s.Selector == nil && s.Template.Labels == nil {
		s.Template.Labels = map[string]string{"job-name": j.Name}
	}
	if s.Selector == nil {
		s.Selector = &metav1.LabelSelector{MatchLabels: s.Template.Labels}
	}
}

func podDefaults(s *corev1.PodSpec) {
	def(&s.RestartPolicy, corev1.RestartPolicyAlways)
	def(&s.DNSPolicy, corev1.DNSClusterFirst)
	def(&s.SchedulerName, corev1.DefaultSchedulerName)
	defp(&s.TerminationGracePeriodSeconds, int64(30))
	defp(&s.EnableServiceLinks, true)
	defp(&s.SecurityContext, corev1.PodSecurityContext{})
	def(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	def(&s.DeprecatedServiceAccount, s.ServiceAccountName)
	probe := func(p *corev1.Probe) {
		if p == nil {
			return
		}
		def(&p.TimeoutSeconds, 1)
		def(&p.PeriodSeconds, 10)
		def(&p.SuccessThreshold, 1)
		def(&p.FailureThreshold, 3)
		if p.HTTPGet != nil {
			def(&p.HTTPGet.Path, "/")
			def(&p.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
		if p.GRPC != nil {
			defp(&p.GRPC.Service, "")
		}
	}
	handler := func(h *corev1.LifecycleHandler) {
		if h != nil && h.HTTPGet != nil {
			def(&h.HTTPGet.Path, "/")
			def(&h.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
	}
	for _, cs := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range cs {
			c := &cs[i]
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = corev1.PullIfNotPresent
			}
			def(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
			def(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
			for j := range c.Ports {
				def(&c.Ports[j].Protocol, corev1.ProtocolTCP)
				if s.HostNetwork {
					def(&c.Ports[j].HostPort, c.Ports[j].ContainerPort)
				}
			}
			for j := range c.Env {
				if v := c.Env[j].ValueFrom; v != nil && v.FieldRef != nil {
					def(&v.FieldRef.APIVersion, "v1")
				}
			}
			probe(c.LivenessProbe)
			probe(c.ReadinessProbe)
			probe(c.StartupProbe)
			if c.Lifecycle != nil {
				handler(c.Lifecycle.PostStart)
				handler(c.Lifecycle.PreStop)
			}
			for r, v := range c.Resources.Limits {
				if c.Resources.Requests == nil {
					c.Resources.Requests = corev1.ResourceList{}
				}
				if _, ok := c.Resources.Requests[r]; !ok {
					c.Resources.Requests[r] = v.DeepCopy()
				}
			}
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		m := int32(0o644)
		switch {
		case v.Secret != nil:
			defp(&v.Secret.DefaultMode, m)
		case v.ConfigMap != nil:
			defp(&v.ConfigMap.DefaultMode, m)
		case v.DownwardAPI != nil:
			defp(&v.DownwardAPI.DefaultMode, m)
		case v.HostPath != nil:
			defp(&v.HostPath.Type, corev1.HostPathUnset)
		case v.Projected != nil:
			defp(&v.Projected.DefaultMode, m)
			for _, p := range v.Projected.Sources {
				if p.ServiceAccountToken != nil {
					defp(&p.ServiceAccountToken.ExpirationSeconds, 3600)
				}
				if p.DownwardAPI != nil {
					for k := range p.DownwardAPI.Items {
						if f := p.DownwardAPI.Items[k].FieldRef; f != nil {
							def(&f.APIVersion, "v1")
						}
					}
				}
			}
		case v.VolumeSource == corev1.VolumeSource{}:
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		}
	}
}

func qos(p *corev1.Pod) corev1.PodQOSClass {
	any, all := false, true
	for _, c := range p.Spec.Containers {
		for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			q, l := c.Resources.Requests[r], c.Resources.Limits[r]
			if !q.IsZero() || !l.IsZero() {
				any = true
			}
			if l.IsZero() || l.Cmp(q) != 0 {
				all = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// --- services: addresses and node ports at random, not checked against others (65 thousand and 2.7 thousand to choose from)
func nthIP(n uint32) string {
	_, c, err := net.ParseCIDR(*fSvc)
	must(err)
	b := make(net.IP, 4)
	binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(c.IP.To4())+n)
	return b.String()
}
func firstSvcIP() string { return nthIP(1) }
func allocService(s *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if s.Spec.ClusterIP == "" {
		s.Spec.ClusterIP = nthIP(256 + uint32(rand.Intn(65000)))
	}
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	defp(&s.Spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	nodePorts(s)
}
func nodePorts(s *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for i := range s.Spec.Ports {
			if s.Spec.Ports[i].NodePort == 0 {
				s.Spec.Ports[i].NodePort = int32(30000 + rand.Intn(2768))
			}
		}
	}
}
func keepService(s, old *corev1.Service) {
	def(&s.Spec.ClusterIP, old.Spec.ClusterIP)
	if s.Spec.ClusterIPs == nil {
		s.Spec.ClusterIPs, s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = old.Spec.ClusterIPs, old.Spec.IPFamilies, old.Spec.IPFamilyPolicy
	}
	for i := range s.Spec.Ports {
		for _, o := range old.Spec.Ports {
			if o.Name == s.Spec.Ports[i].Name && s.Spec.Type != corev1.ServiceTypeClusterIP {
				def(&s.Spec.Ports[i].NodePort, o.NodePort)
			}
		}
	}
	nodePorts(s)
}

// injectSA: the mount that the ServiceAccount admission plugin makes, with a bound token
func injectSA(_ context.Context, p *corev1.Pod) {
	def(&p.Spec.ServiceAccountName, "default")
	p.Spec.DeprecatedServiceAccount = p.Spec.ServiceAccountName
	if saKey == nil || (p.Spec.AutomountServiceAccountToken != nil && !*p.Spec.AutomountServiceAccountToken) || p.Annotations["kubernetes.io/config.mirror"] != "" {
		return
	}
	const at = "/var/run/secrets/kubernetes.io/serviceaccount"
	name, used := "kube-api-access", false
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			has := false
			for _, m := range cs[i].VolumeMounts {
				has = has || m.MountPath == at
			}
			if !has {
				cs[i].VolumeMounts = append(cs[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: at, ReadOnly: true})
				used = true
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Name == name {
			used = false
		}
	}
	if used {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: ptr(int64(3607)), Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
		}}}})
	}
}
