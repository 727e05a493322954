"""History as chat models want it."""

from speechgpt_gen.agent.brain.messages import chat_messages, chat_tools
from speechgpt_gen.streaming.engine.protocol import CallMessage, Message, Request, ResultMessage, Tool

CALL = CallMessage("assistant", "", "call_1", "weather", '{"city": "Rome"}')
ASKED, SAID = Message("user", "And in Rome?"), Message("assistant", "Let me see.")


def roles(*history):
    return [message["role"] for message in chat_messages("", history, None)]


def test_the_prompt_comes_before_the_sessions_words_which_an_answers_own_replace():
    history = [Message("system", "Be kind."), ASKED]
    (system, user) = chat_messages("Speak.", history, None)
    assert system == {"role": "system", "content": "Speak.\n\nBe kind."}
    assert user == {"role": "user", "content": "And in Rome?"}
    assert chat_messages("Speak.", history, "Be brief.")[0]["content"] == "Speak.\n\nBe brief."


def test_a_result_follows_its_call_wherever_it_came_in():
    history = [ASKED, CALL, Message("user", "Hurry!"), ResultMessage("user", "21 degrees", "call_1")]
    messages = chat_messages("", history, None)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"}


def test_half_a_call_is_left_out():
    assert roles(ASKED, SAID, CALL) == ["user", "assistant"]
    assert roles(ResultMessage("user", "x", "forgotten"), ASKED) == ["user"]


def test_tools_and_their_choice():
    tool = Tool("weather", "", {"type": "object", "properties": {}})
    assert chat_tools(Request()) == {}
    offered = chat_tools(Request(tools=(tool,), tool_choice=tool))
    assert offered["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": tool.parameters}}]
    assert offered["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
