#!/usr/bin/env bash
# Upgrades the release `tcgx` of a cluster with the chart, and places an order. If either fails, the release before comes back.
# KUBECONFIG_TEXT is the text of a kubeconfig, REPOSITORY the name of the image; $1 is the version.
set -euo pipefail
version=$1
cd "$(dirname "$0")"
KUBECONFIG=$(mktemp)
export KUBECONFIG
trap 'rm -f "$KUBECONFIG"' EXIT
printf '%s' "$KUBECONFIG_TEXT" > "$KUBECONFIG"

kubectl() { command kubectl --namespace tcgx "$@"; }
before=$(helm list --namespace tcgx --filter '^tcgx$' --short)
back() {
    if [ -z "$before" ]; then
        echo "version $version does not work, and there is no release before it"
        exit 1
    fi
    echo "version $version does not work: back to the release before"
    helm rollback tcgx --namespace tcgx --wait --timeout 10m
    exit 1
}

# What the operator has set before stays, with the defaults of this chart where nothing was set.
helm upgrade tcgx helm/tcgx --install --reset-then-reuse-values --namespace tcgx --create-namespace --wait --timeout 10m \
    --set "image.repository=$REPOSITORY,image.tag=$version" || back
# An order that rests at the lowest price, and its cancel: nobody else's orders are touched.
kubectl exec deployment/tcgx-api -- python -m testing.first_order || back
