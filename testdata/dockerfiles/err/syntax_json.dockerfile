{"syntax": "example.com/frontend"}
