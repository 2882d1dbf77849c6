"""The seed's example type-checks, with its four keywords put back."""

import gpt
from gpt.models import components, operations

s = gpt.Gpt(api_key_auth="")
req = components.CreateChatCompletionRequest(
    function_call=components.Schemas(name="string"),
    functions=[components.ChatCompletionFunctions(name="string", parameters={"key": "string"})],
    logit_bias={"key": 544683},
    messages=[
        components.UserMessage(
            [
                components.TextContentPart(
                    text="string", type=components.SchemasChatCompletionRequestMessageContentPartTextType.TEXT
                )
            ],
            role=components.SchemasChatCompletionRequestUserMessageRole.USER,
        )
    ],
    model=components.Two.GPT_3_5_TURBO,
    n=1,
    response_format=components.ResponseFormat(type=components.CreateChatCompletionRequestType.JSON_OBJECT),
    stop="string",
    temperature=1,
    tool_choice=components.ChatCompletionToolChoiceOption1.NONE,
    tools=[
        components.ChatCompletionTool(
            function=components.ChatCompletionToolFunction(name="string", parameters={"key": "string"}),
            type=components.ChatCompletionToolType.FUNCTION,
        )
    ],
    top_p=1,
    user="user-1234",
)
res: operations.CreateChatCompletionResponse = s.chat.create_chat_completion(req)
if res.create_chat_completion_response is not None:
    text: str | None = res.create_chat_completion_response.choices[0].message.content
