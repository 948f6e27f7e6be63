"""The state in DynamoDB: items, tables, and one transaction a command."""
