"""Small tokenizers in the manner of published families: special tokens, what they add by themselves, chat templates."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
          "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}")
LLAMA = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
         "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
         "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
         "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim "
         "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")
MISTRAL = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
           "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}")
DISTILL = ("{{ bos_token }}{% for m in messages %}{{ '<|User|>' + m['content'] if m['role'] == 'user' else "
           "'<|Assistant|>' + m['content'] + eos_token }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}")

FAMILIES = {  # special tokens (BOS, EOS, further), the chat template, whether BOS is added by itself
    "qwen": ((None, "<|endoftext|>", "<|im_start|>", "<|im_end|>"), CHATML, False),
    "llama": (("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), LLAMA, True),
    "gemma": (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), GEMMA, True),
    "mistral": (("<s>", "</s>"), MISTRAL, True),
    "distill": (("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"), DISTILL, True),
}


def tokenizer_like(family: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the family's special tokens."""
    (bos, eos, *more), chat_template, adds_bos = FAMILIES[family]
    special = [token for token in ("<pad>", bos, eos, *more) if token]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token="<pad>",
                                        additional_special_tokens=more, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = chat_template
    return tokenizer
