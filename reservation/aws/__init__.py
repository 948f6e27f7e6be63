"""Calls to the JSON services of AWS: DynamoDB, EventBridge, SQS."""
