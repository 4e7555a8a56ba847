# In terminals, python and pip are those that notebooks run in, and what they install is found.
if [ "$(id -u)" -ge 1000 ]; then
    PATH=$HOME/.local/bin:/opt/notebook/bin:$PATH
fi
