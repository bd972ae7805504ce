"""Messages of the contract of gRPC, made by `make grpc`."""
