{{- /* A file of deploy/kubernetes, in the namespace of the release. The argument is the chart and the path. */ -}}
{{- define "autoport.file" -}}
{{- (index . 0).Files.Get (printf "kubernetes/%s" (index . 1)) | replace "kube-system" (index . 0).Release.Namespace }}
{{- end }}

{{- define "autoport.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* What the component of the platform, or of SELinux, changes in a DaemonSet. The argument is the chart, the component, and
which of its patches. */ -}}
{{- define "autoport.patch" -}}
{{- $component := include "autoport.file" (list (index . 0) (printf "platforms/%s/kustomization.yaml" (index . 1))) | fromYaml }}
{{- (index $component.patches (index . 2)).patch }}
{{- end }}
