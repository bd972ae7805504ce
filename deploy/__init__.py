"""Deployment: Kubernetes objects and a Helm chart from one source, a CloudFormation template, roles of servers."""
