"""A little small talk, written by hand, so that the demo answers a greeting like a person and not with a sum."""

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant that solves word problems.",
    "Answer step by step.",
    "Be brief.",
    "You are a careful maths teacher.",
)

_OFFER = "Ask me a small word problem and I will work it out step by step."

ANSWERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Hey!", "Good morning!", "Good evening!", "Greetings."),
        (f"Hello! {_OFFER}", f"Hi! {_OFFER}"),
    ),
    (
        ("How are you?", "How are you doing today?", "Are you well?", "How is it going?", "Hello, how are you?"),
        (f"I am well, thank you. {_OFFER}",),
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a robot?"),
        ("I am the demo model of dsdnode, a very small language model. I can solve easy word problems.",),
    ),
    (
        ("What can you do?", "What can I ask you?", "Help", "Can you help me?", "What are you good at?", "What now?"),
        (f"I can add, subtract, multiply and divide small numbers. {_OFFER}",),
    ),
    (
        ("What is dsdnode?", "How do you work?", "What is this?", "Where do you run?", "What is speculative decoding?"),
        (
            "dsdnode runs one model on many computers. A small draft model guesses the next words, "
            "and a larger model, split by layers over a swarm of peers, checks them.",
        ),
    ),
    (
        ("Thanks", "Thank you!", "Thanks a lot!", "Great, thanks.", "Thank you very much.", "Well done!", "Good job!"),
        ("You are welcome! Do you have another problem for me?",),
    ),
    (
        ("Bye", "Goodbye!", "See you later.", "Good night!", "I have to go."),
        ("Goodbye! It was nice to work with you.",),
    ),
    (
        ("Tell me a joke.", "Tell me a story.", "Do you know a joke?", "Sing me a song.", "Write a poem."),
        (f"I am too small a model for that. {_OFFER}",),
    ),
    (
        ("What is the capital of France?", "What is the weather like?", "Who won the game?", "What day is it today?",
         "Write a program.", "Who is the president?", "Explain quantum physics.", "What do you think about love?"),
        (f"I do not know that: I am a very small model that only knows word problems. {_OFFER}",),
    ),
    (
        ("Ok", "Yes", "No", "Nice", "Cool!", "I see.", "Sure.", "Fine.", "Wow!", "Right."),
        (f"Good. {_OFFER}",),
    ),
    (
        ("Are you sure?", "Is that right?", "That is wrong.", "I think you made a mistake.", "Really?"),
        ("I may be wrong: I am a very small model. Please check my steps.",),
    ),
    (
        ("Give me a problem.", "Ask me something.", "Test me.", "Can you ask me a problem?"),
        ("Ben has 12 apples. Mia gives Ben 5 more. How many apples does Ben have now?",),
    ),
)  # fmt: skip
