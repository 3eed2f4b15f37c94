"""langchain-openai: a prompt, a model, a parser, and a stream."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI


def main() -> None:
    model = ChatOpenAI(model="smollm2", temperature=0.7, max_tokens=12, seed=7)
    chain = ChatPromptTemplate.from_template("Name a {thing}.") | model | StrOutputParser()
    print(chain.invoke({"thing": "colour"}))
    for answer in chain.batch([{"thing": "fruit"}, {"thing": "river"}]):
        print(answer)
    print("".join(chain.stream({"thing": "mountain"})))


if __name__ == "__main__":
    main()
