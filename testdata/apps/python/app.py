"""Answers one request to itself, so that running the image proves that it works."""
from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return "flask says hello\n"


if __name__ == "__main__":
    print(app.test_client().get("/").text, end="")
