"""Fifty prompts: 25 whose answer must follow a JSON schema, 25 that must call a tool."""

TEXT, WHOLE, NUMBER, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def short(most):
    return {"type": "string", "maxLength": most}


def one_of(*values):
    return {"enum": list(values)}


def several(items, least=1, most=4):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def record(optional=(), **fields):
    """An object of these fields and no others."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def between(least, most):
    return {"type": "integer", "minimum": least, "maximum": most}


PERSON = record(name=short(60), age=between(0, 130))
POINT = record(x=NUMBER, y=NUMBER)

SCHEMAS = [
    ("Give the capital and the population of France.", record(capital=short(60), population=WHOLE)),
    ("Invent a person.", PERSON),
    ("Invent three people.", several(PERSON, 3, 3)),
    ("Is the sky blue? Answer and say how sure you are.", record(answer=TRUTH, certainty=NUMBER)),
    ("Classify: 'I love this phone'.", record(sentiment=one_of("positive", "negative", "neutral"))),
    ("Classify: 'The parcel never came'.", record(topic=one_of("delivery", "payment", "quality"), urgent=TRUTH)),
    ("List two colours with their hex codes.", several(record(name=short(30), hex={"type": "string", "pattern": "^#[0-9a-f]{6}$"}), 2, 2)),
    ("Draw a triangle.", record(points=several(POINT, 3, 3), closed=TRUTH)),
    ("A recipe for pancakes.", record(title=short(60), minutes=between(1, 300), ingredients=several(short(40), 2, 6))),
    ("Extract: 'Meet Ann on 3 May 2026 at noon'.", record(who=short(40), date={"type": "string", "format": "date"})),
    ("When was the moon landing?", record(date={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"})),
    ("A book that you like.", record(optional=["year"], title=short(80), author=short(60), year=between(1000, 2100))),
    ("Nothing is known about Mr Smith's age.", record(name=short(40), age={"type": ["integer", "null"]})),
    ("Plan a day in three steps.", record(steps=several(record(hour=between(0, 23), what=short(80)), 3, 3))),
    ("A tree with one child.", {"$defs": {"leaf": record(value=WHOLE)}, **record(value=WHOLE, child={"$ref": "#/$defs/leaf"})}),
    ("Either a number or a word: choose one.", record(choice={"anyOf": [WHOLE, short(20)]})),
    ("A circle or a square.", {"anyOf": [record(kind={"const": "circle"}, radius=NUMBER), record(kind={"const": "square"}, side=NUMBER)]}),
    ("Rate the film Alien.", record(title={"const": "Alien"}, stars=between(1, 5))),
    ("Write the SQL for all users.", record(sql=short(120), tables=several(short(30), 1, 3))),
    ("A latitude and longitude for Berlin.", record(latitude=NUMBER, longitude=NUMBER)),
    ("Translate 'good morning' into three languages.", record(german=short(40), french=short(40), spanish=short(40))),
    ("An order of two articles.", record(id=short(20), lines=several(record(sku=short(12), count=between(1, 99), price=NUMBER), 2, 2))),
    ("True or false, five times.", several(TRUTH, 5, 5)),
    ("An address in London.", record(street=short(60), city=short(40), postcode=short(10), country=one_of("GB"))),
    ("A matrix of two by two.", several(several(WHOLE, 2, 2), 2, 2)),
]


def tool(name, description, **fields):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": record(**fields)}}


WEATHER = tool("get_weather", "The weather in a city", city=short(60), unit=one_of("celsius", "fahrenheit"))
TIME = tool("get_time", "The time in a city", city=short(60))
MAIL = tool("send_mail", "Sends a mail", to=short(60), subject=short(80), body=short(200))
ADD = tool("add", "Adds two numbers", a=NUMBER, b=NUMBER)
SEARCH = tool("search", "Searches documents", optional=["limit"], query=short(80), limit=between(1, 20))
BOOK = tool("book_table", "Books a table", restaurant=short(60), people=between(1, 12), outside=TRUTH)
LIGHT = tool("set_light", "Switches a light", room=one_of("kitchen", "bath", "hall"), on=TRUTH, brightness=between(0, 100))
ROUTE = tool("route", "Finds a way", start=record(x=NUMBER, y=NUMBER), end=record(x=NUMBER, y=NUMBER))
TAGS = tool("tag", "Tags a text", tags=several(short(20), 1, 5))
NOW = tool("now", "The date of today")

# A prompt, the tools, and the choice: "required", or the name of a tool.
TOOLS = [
    ("What is the weather in Paris?", [WEATHER], "required"),
    ("What is the weather in Oslo, in fahrenheit?", [WEATHER, TIME], "required"),
    ("What time is it in Tokyo?", [WEATHER, TIME], "required"),
    ("Mail Bob that the meeting is moved.", [MAIL], "required"),
    ("What is 2 plus 3.5?", [ADD], "required"),
    ("Add -7 and 12.", [ADD, SEARCH], "required"),
    ("Find papers about bees.", [SEARCH], "required"),
    ("Find three documents about tea.", [SEARCH, MAIL], "required"),
    ("A table for four at Luigi's, please.", [BOOK], "required"),
    ("Dinner for two outside at the Harbour Inn.", [BOOK, SEARCH], "required"),
    ("Turn on the kitchen light.", [LIGHT], "required"),
    ("Make the hall dark.", [LIGHT, TIME], "required"),
    ("How do I get from 0,0 to 3,4?", [ROUTE], "required"),
    ("What day is it?", [NOW], "required"),
    ("Hello!", [WEATHER, TIME, MAIL], "required"),
    ("What is the weather in Rome?", [WEATHER, TIME], "get_weather"),
    ("What is the weather in Rome?", [WEATHER, TIME], "get_time"),
    ("Write to eve@example.org about lunch.", [MAIL, SEARCH], "send_mail"),
    ("Sum 10 and 20.", [ADD, ROUTE], "add"),
    ("Who wrote Faust?", [SEARCH, ADD], "search"),
    ("Reserve a place for six.", [BOOK, MAIL], "book_table"),
    ("Bathroom light to 30 percent.", [LIGHT, WEATHER], "set_light"),
    ("From 1.5,2 to 8,9.", [ROUTE, ADD], "route"),
    ("Tags for an article on sailing.", [TAGS, SEARCH], "tag"),
    ("Tell me a joke.", [NOW, TAGS], "now"),
]
