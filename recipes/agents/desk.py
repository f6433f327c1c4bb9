"""A clerk at a shop's desk: a program of OpenAI's client that knows nothing of training.

It is asked for a good, has the policy say which aisle to go to, and finds a number there if that
was the right one; then it has the policy read the number out.
"""

import json
import sys

from openai import OpenAI

AISLES = {"lamp": "c", "rope": "a", "bell": "b", "soap": "b", "nail": "a", "comb": "c"}

order = json.load(sys.stdin)["messages"][-1]["content"]
good, number = order.split()
client = OpenAI()
said = [{"role": "user", "content": order}]
aisle = client.chat.completions.create(model="policy", messages=said, max_tokens=4)
said.append(aisle.choices[0].message.model_dump(exclude_none=True))
if aisle.choices[0].message.content == AISLES[good]:
    found = f"{int(number) * 37 % 100:02d}"
    said.append({"role": "user", "content": f"box {found}"})
    answer = client.chat.completions.create(model="policy", messages=said, max_tokens=4)
    print(answer.choices[0].message.content)
else:
    print("not here")
