"""Traffic Tacos Reservation: exclusive seat holds over gRPC and REST, kept in DynamoDB."""
